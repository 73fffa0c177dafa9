"""Compares what `aquifer run` wrote with what went in. Knows the contract, nothing of the program.

    smoke.py complete INPUT RESULTS   every line of the input has exactly one succeeded result, and nothing else is there
    smoke.py no-call SUMMARY          the --json summary of a run that had nothing left to do
    smoke.py broken INPUT RESULTS     examples/broken.jsonl: the right lines are rejected, for the right reasons
"""

import collections
import hashlib
import json
import re
import sys

FIELDS = {
    "id": str, "batch": str, "tenant": str, "status": str, "model": str, "model_used": str, "region": str,
    "degraded": bool, "simulated": bool, "text": str, "output": dict, "stop_reason": str, "usage": dict, "text_bytes": int,
    "cost_usd": (int, float), "attempts": int, "model_calls": int, "timing": dict, "error": type(None),
    "metadata": dict,
}  # of a result that succeeded


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def content_digest(job, model):
    """SHA-256 over canonical JSON of model, request and max_tokens as written."""
    if isinstance(job, str):
        job = {"prompt": job}
    request = {kind: job[kind] for kind in ("prompt", "converse", "invoke") if kind in job}
    content = {"max_tokens": job.get("max_tokens"), "model": job.get("model", model), "request": request}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def complete(input_path, results_path):
    jobs, results = lines(input_path), lines(results_path)
    # Lines without a model share the default one, whatever its name is; without an id, the digest is the id.
    model = results[0]["model"]
    wanted, repeats = {}, collections.Counter()
    for job in jobs:
        named = job.get("id") if isinstance(job, dict) else None
        if named is None:
            digest = content_digest(job, model)
            repeats[digest] += 1
            named = digest if repeats[digest] == 1 else f"{digest}-{repeats[digest]}"
        assert named not in wanted, f"{input_path} has the id {named} twice"
        wanted[named] = job if isinstance(job, dict) else {}
    counts = collections.Counter(result["id"] for result in results)
    assert not (twice := [name for name, count in counts.items() if count > 1]), f"more than one result: {twice}"
    assert not (missing := wanted.keys() - counts.keys()), f"no result: {sorted(missing)}"
    assert not (strange := counts.keys() - wanted.keys()), f"results of no line: {sorted(strange)}"
    for result in results:
        name = result["id"]
        assert result["status"] == "succeeded", f"{name} is {result['status']}: {result['error']}"
        assert result.keys() == FIELDS.keys(), f"{name}: fields differ by {sorted(result.keys() ^ FIELDS.keys())}"
        for field, kind in FIELDS.items():
            assert isinstance(result[field], kind), f"{name}: {field} is {result[field]!r}"
        assert result["simulated"] and result["text"] and result["cost_usd"] > 0, f"{name} has no answer"
        assert result["metadata"] == wanted[name].get("metadata", {}), f"{name}: metadata is not echoed"
    print(f"{len(jobs)} lines, {len(results)} results, one for each line, all succeeded")


def no_call(summary_path):
    with open(summary_path, encoding="utf-8") as file:
        summary = json.load(file)
    assert summary["model_calls"] == 0, f"the second run made calls: {summary}"
    print("the second run made no call and left the results as they were")


# Line of examples/broken.jsonl: the class of its failure, and a word its message must hold.
BROKEN = {
    2: ("bad_input", ""),
    3: ("bad_input", "max_tokns"),
    4: ("bad_input", "converse"),
    5: ("bad_input", "prompt"),
    7: ("bad_input", "id"),
    8: ("bad_input", "max_tokens"),
    9: ("bad_input", "deadline"),
    10: ("id_conflict", "good-1"),
    11: ("bad_input", "document"),
    12: ("bad_input", "priority"),
    13: ("bad_input", "prompt"),
    14: ("bad_input", ""),
}
GOOD = {"good-1", "good-2", "good-3"}


def broken(input_path, results_path):
    with open(input_path, encoding="utf-8") as file:
        assert len(list(file)) == len(BROKEN) + len(GOOD), f"{input_path} has changed, and this check has not"
    seen, good = set(), set()
    for result in lines(results_path):
        if result["status"] == "succeeded":
            good.add(result["id"])
            continue
        error = result["error"]
        assert result["status"] == "rejected", f"{result['id']} is {result['status']}"
        assert result["model_calls"] == 0 and result["cost_usd"] == 0, f"{result['id']} was sent"
        place = re.search(r"broken\.jsonl\D{1,9}(\d+)", error["message"])
        assert place, f"no file and line in: {error['message']}"
        number = int(place.group(1))
        assert number not in seen, f"line {number} was rejected twice"
        seen.add(number)
        assert number in BROKEN, f"line {number} is good, but: {error['message']}"
        wanted, word = BROKEN[number]
        assert error["class"] == wanted, f"line {number}: {error['class']}, wanted {wanted}"
        assert word in error["message"], f"line {number}: {word!r} is not named in: {error['message']}"
    assert seen == BROKEN.keys(), f"not rejected: {sorted(BROKEN.keys() - seen)}"
    assert good == GOOD, f"succeeded: {sorted(good)}"
    print(f"{len(seen)} lines rejected, each with file, line and reason; {len(good)} good ones succeeded")


if __name__ == "__main__":
    try:
        {"complete": complete, "no-call": no_call, "broken": broken}[sys.argv[1]](*sys.argv[2:])
    except (AssertionError, KeyError, IndexError, ValueError, OSError) as fault:
        sys.exit(f"{type(fault).__name__}: {fault}")
