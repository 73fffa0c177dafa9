-- A state directory's database as schema 1 left it: one job of two has ended. Never changed: it is what people have.
PRAGMA application_id = 0x41717569;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE batch (
    no INTEGER PRIMARY KEY, name TEXT NOT NULL, tenant TEXT NOT NULL,
    queued INTEGER NOT NULL, running INTEGER NOT NULL, succeeded INTEGER NOT NULL, failed INTEGER NOT NULL,
    rejected INTEGER NOT NULL, expired INTEGER NOT NULL, partial INTEGER NOT NULL,
    spent INTEGER NOT NULL, committed INTEGER NOT NULL, open INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
    sealed INTEGER NOT NULL, completion INTEGER NOT NULL, announced INTEGER NOT NULL, forgetting INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL,
    UNIQUE (name, tenant));
INSERT INTO "batch" VALUES(1,'reviews 2026','default',1,0,1,0,0,0,0,13000,13000,0,10,3,0,0,1,0,0,0,1700000000000,1700000000000);
CREATE TABLE body (message INTEGER PRIMARY KEY, text TEXT NOT NULL);
INSERT INTO "body" VALUES(2,'{"id":"waiting","batch":"reviews 2026","tenant":"default","model":"haiku","prompt":"another prompt"}');
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "counter" VALUES('done',1);
INSERT INTO "counter" VALUES('message',2);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, pool INTEGER NOT NULL, priority INTEGER NOT NULL, receives INTEGER NOT NULL,
    sent INTEGER NOT NULL, died INTEGER NOT NULL, reason TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE gate (
    lane TEXT NOT NULL, epoch INTEGER NOT NULL, reason TEXT NOT NULL, since INTEGER NOT NULL,
    until INTEGER NOT NULL, PRIMARY KEY (lane, epoch)) WITHOUT ROWID;
CREATE TABLE job (
    no INTEGER PRIMARY KEY, batch INTEGER NOT NULL, hash INTEGER NOT NULL, state TEXT NOT NULL,
    generation INTEGER NOT NULL, token INTEGER NOT NULL, epoch INTEGER, lease_until INTEGER NOT NULL,
    attempts INTEGER NOT NULL, model_calls INTEGER NOT NULL, spent INTEGER NOT NULL, unknown INTEGER NOT NULL,
    open INTEGER, suspicion REAL NOT NULL, enqueued INTEGER NOT NULL, message INTEGER,
    done INTEGER, ended INTEGER,
    input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens INTEGER NOT NULL DEFAULT 0, cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    offset INTEGER, length INTEGER, digest BLOB NOT NULL, id TEXT NOT NULL, uri TEXT, sha256 BLOB,
    model_used TEXT, error_class TEXT, error_message TEXT, error_request TEXT);
INSERT INTO "job" VALUES(1,1,-1694576526060037961,'succeeded',0,1,NULL,0,0,1,13000,0,NULL,0.0,1700000000000,1,1,1700000000000,10,3,0,0,0,14,X'53196B11B5105D1D9CB62C2C306CD5612E4CD51B41236FC67A0FB3BFBCDFB075','ended','bodies/dd16a5477c5c612e3943e2eaf53fdae5/1-1.jsonl',X'BAD9A5BBAFD70A8C939E97C6F362A8123894B40B02A6D00E318B6B14276961AF','m',NULL,NULL,NULL);
INSERT INTO "job" VALUES(2,1,-9164926500073513395,'queued',0,0,NULL,0,0,0,0,0,NULL,0.0,1700000000000,2,NULL,NULL,0,0,0,0,NULL,NULL,X'CE287A326FCB6614B1211934C4DE329692B36320AD4A9BBC7341FA00D5FA277F','waiting',NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE message (
    id INTEGER PRIMARY KEY, pool INTEGER NOT NULL, priority INTEGER NOT NULL, seq INTEGER NOT NULL,
    hidden_until INTEGER, epoch INTEGER, receives INTEGER NOT NULL, sent INTEGER NOT NULL);
INSERT INTO "message" VALUES(2,1,5,2,NULL,NULL,0,1700000000000);
CREATE TABLE pool (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO "pool" VALUES(1,'reviews 2026');
CREATE TABLE process (epoch INTEGER PRIMARY KEY AUTOINCREMENT, started INTEGER NOT NULL);
CREATE TABLE refusal (
    no INTEGER PRIMARY KEY, batch INTEGER NOT NULL, id TEXT NOT NULL, done INTEGER NOT NULL,
    uri TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, sha256 BLOB NOT NULL);
CREATE TABLE roll (no INTEGER PRIMARY KEY, pool INTEGER NOT NULL, epoch INTEGER NOT NULL, sealed INTEGER NOT NULL);
INSERT INTO "roll" VALUES(1,1,1,1);
CREATE TABLE roll_line (
    roll INTEGER NOT NULL, position INTEGER NOT NULL, job INTEGER, refusal INTEGER,
    PRIMARY KEY (roll, position)) WITHOUT ROWID;
INSERT INTO "roll_line" VALUES(1,0,1,NULL);
INSERT INTO "roll_line" VALUES(1,1,2,NULL);
CREATE INDEX message_ready ON message (pool, priority, seq) WHERE hidden_until IS NULL;
CREATE INDEX message_hidden ON message (hidden_until) WHERE hidden_until IS NOT NULL;
CREATE INDEX job_name ON job (batch, hash);
CREATE INDEX job_held ON job (epoch) WHERE epoch IS NOT NULL;
CREATE INDEX job_done ON job (done) WHERE done IS NOT NULL;
CREATE INDEX roll_job ON roll_line (job, roll) WHERE job IS NOT NULL;
CREATE INDEX roll_refusal ON roll_line (refusal, roll) WHERE refusal IS NOT NULL;
CREATE INDEX refusal_line ON refusal (batch, sha256);
CREATE INDEX refusal_done ON refusal (done);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('process',1);
COMMIT;
