// What does the page show, and how does it keep up? It is told by server-sent events: `samples` is the past, `status` the
// present, which is /api/status word for word. Everything is put into the document as text, never as markup, and an element
// stays the same element as long as its subject does, so that whoever has put the focus on it keeps it.
'use strict';

const KEPT = 120; // samples, five seconds apart
const AGAIN_MS = 2000;

const by = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 });
const count = (number) => (number === null || number === undefined ? '–' : whole.format(number));
const dollars = (usd) => '$' + usd.toFixed(4);
const percent = (share) => (share === null || share === undefined ? '–' : (100 * share).toFixed(0) + ' %');

function span(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const s = Math.ceil(seconds);
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min ' + (s % 60) + ' s';
  if (s < 172800) return Math.floor(s / 3600) + ' h ' + Math.floor((s % 3600) / 60) + ' min';
  return Math.floor(s / 86400) + ' days';
}

// ---------------------------------------------------------------------------------------------------- the document

function element(tag, attributes = {}, ...children) {
  const svg = ['svg', 'path', 'title'].includes(tag);
  const made = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Only what has changed is written: a browser that is told nothing new has nothing to do.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function set(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function mark(node, kind) {
  for (const other of ['good', 'warn', 'bad']) node.classList.toggle(other, other === kind);
}

// One child for each item, in their order; `make` makes it, and what that returns beside it is handed to `show`.
function keyed(parent, items, key, make, show) {
  const known = parent.known ?? (parent.known = new Map());
  const wanted = new Set();
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    wanted.add(name);
    if (!known.has(name)) known.set(name, make(item));
    const parts = known.get(name);
    show(parts, item);
    if (parts.root === place) place = place.nextSibling;
    else parent.insertBefore(parts.root, place);
  }
  for (const [name, parts] of known) {
    if (wanted.has(name)) continue;
    parts.root.remove();
    known.delete(name);
  }
}

// ------------------------------------------------------------------------------------------------------ the charts

const WIDE = 600;
const HIGH = 100;

// Areas and lines over the same ten minutes, whatever the width. Each series is a list of numbers, one for each sample;
// `null` is a gap.
function chart(host, name, series) {
  if (!host.parts) {
    const root = element('svg', { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: 'none', role: 'img' });
    const title = element('title');
    const top = element('span');
    const paths = series.map((one) => element('path', { class: one.look }));
    root.append(title, ...paths);
    const ends = element('p', { class: 'ends', 'aria-hidden': 'true' }, element('span', {}, '10 min ago'), element('span', {}, 'now'));
    host.append(element('p', { class: 'ends', 'aria-hidden': 'true' }, top), root, ends);
    host.parts = { title, top, paths };
  }
  const { title, top, paths } = host.parts;
  const most = Math.max(1, ...series.flatMap((one) => one.values.filter((value) => value !== null)));
  const x = (at, length) => ((WIDE * (KEPT - length + at)) / (KEPT - 1)).toFixed(1);
  const y = (value) => (HIGH - ((HIGH - 2) * value) / most).toFixed(1);
  series.forEach((one, index) => {
    let line = '';
    let from = null;
    one.values.forEach((value, at) => {
      if (value === null) return;
      const place = x(at, one.values.length);
      line += (from === null ? 'M' : 'L') + place + ' ' + y(value);
      from ??= place;
    });
    const closes = one.fills && from !== null;
    set(paths[index], 'd', closes ? `${line}L${x(one.values.length - 1, one.values.length)} ${HIGH}L${from} ${HIGH}Z` : line);
  });
  say(top, short.format(most));
  const last = series.map((one) => `${one.name} ${count(one.values.at(-1) ?? null)}`).join(', ');
  say(title, `${name}: ${last}; at most ${count(most)}`);
}

function legend(...keys) {
  const item = ([look, name]) => element('span', {}, element('i', { class: 'k-' + look }), name);
  return element('p', { class: 'key' }, ...keys.map(item));
}

// ------------------------------------------------------------------------------------------------------- the parts

let samples = [];
let newest = null;

const TILES = [
  ['queue.ready', 'Waiting in the queue', (s) => count(s.queue?.ready)],
  ['queue.in_flight', 'Held by workers', (s) => count(s.queue?.in_flight)],
  ['queue.delayed', 'Delayed', (s) => count(s.queue?.delayed)],
  ['queue.dead', 'Dead letters', (s) => count(s.queue?.dead), (s) => (s.queue?.dead > 0 ? 'bad' : '')],
  ['oldest_in_hand_s', 'Oldest job in hand', (s) => span(s.oldest_in_hand_s)],
  ['eta_s', 'Drained in about', (s) => (s.eta_s === 0 ? 'nothing waits' : span(s.eta_s))],
  ['ended_per_second', 'Jobs a second', (s) => (s.ended_per_second === null ? '–' : s.ended_per_second.toFixed(1))],
  ['in_hand', 'In hand', (s) => count(s.in_hand)],
  ['slots', 'Slots', (s) => count(s.slots)],
  ['ended', 'Jobs ended', (s) => count(s.ended)],
  ['without_success', 'Without success', (s) => count(s.without_success), (s) => (s.without_success > 0 ? 'bad' : '')],
  ['model_calls', 'Calls to models', (s) => count(s.model_calls)],
  ['throttled', 'Throttled calls', (s) => count(s.throttled), (s) => (s.throttled > 0 ? 'warn' : '')],
  ['call_failures', 'Failed calls', (s) => count(s.call_failures), (s) => (s.call_failures > 0 ? 'warn' : '')],
  ['input_tokens', 'Input tokens', (s) => count(s.input_tokens)],
  ['output_tokens', 'Output tokens', (s) => count(s.output_tokens)],
  ['cost_usd', 'Cost', (s) => dollars(s.cost_usd)],
];

function showTiles(status) {
  const make = ([figure, name]) => {
    const value = element('dd', { 'data-figure': figure });
    return { root: element('div', {}, element('dt', {}, name), value), value };
  };
  keyed(by('tiles'), TILES, ([figure]) => figure, make, ({ value }, [, , text, kind]) => {
    say(value, text(status));
    mark(value, kind ? kind(status) : '');
  });
}

function showState(status) {
  const [word, kind] = !status.ready ? ['not ready', 'bad'] : status.paused ? ['paused', 'warn'] : ['ready', 'good'];
  say(by('state'), word);
  mark(by('state'), kind);
  by('simulated').hidden = !status.simulated;
  by('why').hidden = status.ready;
  say(by('why'), status.not_ready ?? '');
  say(by('version'), 'aquifer ' + status.version);
  document.title = `${count(status.queue?.ready ?? status.in_hand)} waiting · Aquifer`;
}

function showSteps(status) {
  const make = ({ step }) => {
    const value = element('b', { 'data-step': step });
    const bar = element('meter', { min: 0, 'aria-label': `share of the slots at ${step}` });
    return { root: element('li', {}, step, value, bar), value, bar };
  };
  keyed(by('steps'), status.steps, ({ step }) => step, make, ({ value, bar }, { jobs }) => {
    say(value, count(jobs));
    set(bar, 'max', status.slots);
    set(bar, 'value', jobs);
  });
}

function showPast() {
  const host = by('past');
  if (!host.parts) host.append(legend(['area', 'ended, every 5 s'], ['wrong', 'of these without success']));
  const each = (field) => samples.slice(1).map((sample, at) => Math.max(0, sample[field] - samples[at][field]));
  chart(host, 'Jobs ended in five seconds', [
    { name: 'ended', look: 'area', fills: true, values: each('ended') },
    { name: 'without success', look: 'wrong', fills: true, values: each('without_success') },
  ]);
}

const LANE = [
  ['breaker', 'Breaker', (l) => l.breaker + (l.breaker_left_s ? `, ${span(l.breaker_left_s)} left` : '')],
  ['cool_down_left_s', 'Cool-down', (l) => (l.cool_down_left_s ? `${span(l.cool_down_left_s)} left` : 'none')],
  ['utilisation', 'Quota used', (l) => percent(l.utilisation)],
  ['tokens_last_minute', 'Tokens charged', (l) => count(l.tokens_last_minute)],
  ['tokens_reserved', 'Of these reserved', (l) => count(l.tokens_reserved)],
  ['tokens_per_minute', 'Tokens a minute', (l) => (l.tokens_per_minute === null ? 'not known' : count(l.tokens_per_minute))],
  ['calls_open', 'Calls open', (l) => `${count(l.calls_open)} of ${l.concurrency === null ? 'any' : count(l.concurrency)}`],
  ['answered', 'Answered', (l) => count(l.answered)],
  ['throttled', 'Throttled', (l) => count(l.throttled)],
  ['call_failures', 'Failed', (l) => count(l.call_failures)],
  ['cost_usd', 'Cost', (l) => dollars(l.cost_usd)],
  ['out', 'Permission', (l) => (l.out ? 'out: ' + l.out : 'as far as known')],
];

function makeLane(lane) {
  const values = LANE.map(([field, name]) => {
    const value = element('dd', { 'data-figure': field });
    return { value, pair: element('div', {}, element('dt', {}, name), value) };
  });
  const host = element('div');
  const acts = element('div', { class: 'row' });
  for (const [hand, name] of [['open', 'Open breaker'], ['close', 'Close breaker'], ['probe', 'Probe']]) {
    const button = element('button', { type: 'button', 'data-hand': hand, 'aria-label': `${name} of ${lane.lane}` }, name);
    button.addEventListener('click', () => {
      const seen = newest.lanes.find((other) => other.lane === lane.lane)?.breaker;
      act('/api/breaker', { lane: lane.lane, hand, seen });
    });
    acts.append(button);
  }
  const root = element('article', { class: 'card', 'data-lane': lane.lane },
    element('h3', {}, lane.lane), host, legend(['area', 'charged'], ['held', 'reserved here'], ['quota', 'quota']),
    element('dl', {}, ...values.map(({ pair }) => pair)), acts);
  return { root, host, acts, values: values.map(({ value }) => value) };
}

const BREAKER = { closed: 'good', 'half-open': 'warn', open: 'bad', 'open by hand': 'bad' };

function showLanes(status) {
  keyed(by('lanes'), status.lanes, (lane) => lane.lane, makeLane, (parts, lane) => {
    LANE.forEach(([, , text], at) => say(parts.values[at], text(lane)));
    mark(parts.values[0], BREAKER[lane.breaker]);
    mark(parts.values[1], lane.cool_down_left_s ? 'warn' : '');
    mark(parts.values[8], lane.throttled > 0 ? 'warn' : '');
    mark(parts.values[11], lane.out ? 'bad' : '');
    parts.acts.hidden = !status.acts;
    showLanePast(parts, lane.lane);
  });
}

function showLanePast(parts, lane) {
  if (parts.drawn === samples.at(-1)) return;
  parts.drawn = samples.at(-1);
  const each = (at) => samples.map((sample) => sample.lanes[lane]?.[at] ?? null);
  chart(parts.host, `Tokens a minute of ${lane}`, [
    { name: 'charged', look: 'area', fills: true, values: each(0) },
    { name: 'reserved', look: 'held', fills: true, values: each(1) },
    { name: 'quota', look: 'quota', fills: false, values: each(2) },
  ]);
}

// A table whose rows are cells of text, each [field, text, whether it is a number].
function showRows(body, items, key, cells) {
  const make = (item) => {
    const values = cells.map(([field, , left]) => element('td', { 'data-figure': field, class: left ? '' : 'n' }));
    return { root: element('tr', { 'data-row': key(item) }, ...values), values };
  };
  keyed(body, items, key, make, ({ values }, item) => cells.forEach(([, text], at) => {
    const shown = text(item);
    if (shown instanceof Function) shown(values[at]);
    else say(values[at], shown);
  }));
}

function progress(done, total, name) {
  return (cell) => {
    const bar = cell.firstChild ?? cell.appendChild(element('progress', { 'aria-label': `progress of ${name}` }));
    set(bar, 'max', Math.max(1, total));
    set(bar, 'value', done);
    set(bar, 'title', percent(total ? done / total : 1));
  };
}

function showTables(status) {
  const costs = [...status.tenants].sort((one, next) => next.cost_usd - one.cost_usd || next.ended - one.ended);
  const batches = status.batches?.known ?? [];
  const trouble = status.batches?.unknown;
  say(by('batches-note'), trouble ? `Not known just now: ${trouble}` : batches.length ? 'The newest 50, on record.' : 'None yet.');
  const ended = (b) => b.succeeded + b.failed + b.rejected + b.expired + b.partial;
  showRows(by('batches'), batches, (b) => `${b.tenant}/${b.batch}`, [
    ['batch', (b) => b.batch, true],
    ['tenant', (b) => b.tenant, true],
    ['done', (b) => progress(ended(b), b.total, b.batch), true],
    ['total', (b) => count(b.total)],
    ['succeeded', (b) => count(b.succeeded)],
    ['failed', (b) => count(b.failed)],
    ['rejected', (b) => count(b.rejected)],
    ['expired', (b) => count(b.expired)],
    ['eta_s', (b) => (b.eta_s === 0 ? 'done' : span(b.eta_s))],
    ['cost_usd', (b) => dollars(b.cost_usd)],
  ]);
  const tokens = [
    ['input_tokens', (m) => count(m.input_tokens)],
    ['output_tokens', (m) => count(m.output_tokens)],
    ['cost_usd', (m) => dollars(m.cost_usd)],
  ];
  showRows(by('models'), status.models, (m) => m.model, [
    ['model', (m) => m.model, true],
    ['answered', (m) => count(m.answered)],
    ...tokens,
  ]);
  showRows(by('tenants'), costs, (t) => t.tenant, [
    ['tenant', (t) => t.tenant, true],
    ['ended', (t) => count(t.ended)],
    ['without_success', (t) => count(t.without_success)],
    ...tokens,
  ]);
}

function showFailures(status) {
  by('failures-note').hidden = status.failures.length > 0;
  const make = (failure) => {
    const jobs = element('span', { 'data-figure': failure.class });
    const list = element('ol');
    return { root: element('li', {}, element('b', {}, failure.class), ' ', jobs, list), jobs, list };
  };
  keyed(by('failures'), status.failures, (failure) => failure.class, make, ({ jobs, list }, failure) => {
    say(jobs, `${count(failure.jobs)} ${failure.jobs === 1 ? 'job' : 'jobs'}`);
    keyed(list, failure.newest, (job) => `${job.tenant}/${job.batch}/${job.id}/${job.at}`, makeJob, () => {});
  });
}

function makeJob(job) {
  const asked = new URLSearchParams({ id: job.id, batch: job.batch, tenant: job.tenant });
  const link = element('a', { href: '/?' + asked }, job.id);
  link.addEventListener('click', (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.replaceState(null, '', '/?' + asked);
    explain(asked);
  });
  return { root: element('li', {}, link, ` of batch ${job.batch}, tenant ${job.tenant}, at ${job.at}`) };
}

function showWaits(status) {
  const waits = [
    ...status.gates.map((gate) => [gate.lane, `${gate.lane}: ${gate.reason}, ${span(gate.left_s)} left`]),
    ...status.troubles.map((trouble) => [
      `trouble ${trouble.doing}`, `${trouble.doing}: ${trouble.why}; ${count(trouble.times)} times in ${span(trouble.lasted_s)}`,
    ]),
  ];
  by('waits-note').hidden = waits.length > 0;
  const make = () => ({ root: element('li') });
  keyed(by('waits'), waits, ([name]) => name, make, ({ root }, [, text]) => say(root, text));
}

function showActs(status) {
  by('acts').hidden = !status.acts;
  say(by('pause'), status.paused ? 'Resume this worker' : 'Pause this worker');
  by('redrive').disabled = !(status.queue?.dead > 0);
}

function show(status) {
  newest = status;
  for (const part of [showState, showTiles, showSteps, showLanes, showTables, showFailures, showWaits, showActs]) part(status);
  document.documentElement.dataset.at = status.at;
}

// ------------------------------------------------------------------------------------------------ asking and acting

async function explain(asked) {
  by('explain-id').value = asked.get('id') ?? '';
  by('explain-batch').value = asked.get('batch') ?? '';
  const place = by('explained');
  say(place, 'asking ...');
  try {
    const answer = await (await fetch('/api/explain?' + asked)).json();
    const told = answer.jobs.map(({ lines }) => lines.join('\n')).join('\n\n');
    say(place, told || answer.why || 'no such job');
  } catch {
    say(place, 'the worker does not answer; try again');
  }
  place.focus();
}

by('explain-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const asked = new URLSearchParams({ id: by('explain-id').value.trim() });
  const batch = by('explain-batch').value.trim();
  if (batch) asked.set('batch', batch);
  history.replaceState(null, '', '/?' + asked);
  explain(asked);
});

async function act(path, what) {
  try {
    const answer = await fetch(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer ' + by('token').value },
      body: JSON.stringify(what),
      credentials: 'omit',
    });
    const said = (await answer.text()).trim();
    say(by('acted'), answer.ok ? `done: ${said}` : `not done: ${said}`);
    mark(by('acted'), answer.ok ? 'good' : 'bad');
  } catch {
    say(by('acted'), 'not done: the worker does not answer');
    mark(by('acted'), 'bad');
  }
}

by('pause').addEventListener('click', () => act(newest?.paused ? '/api/resume' : '/api/pause', {}));
by('redrive').addEventListener('click', () => act('/api/redrive', {}));

// ---------------------------------------------------------------------------------------------------- the connection

function connect() {
  const events = new EventSource('/api/events');
  const link = by('link');
  events.addEventListener('open', () => {
    // The past comes anew: it may be another process's.
    samples = [];
    say(link, 'live');
    mark(link, 'good');
  });
  events.addEventListener('samples', (event) => {
    samples = [...samples, ...JSON.parse(event.data)].slice(-KEPT);
    showPast();
  });
  events.addEventListener('status', (event) => show(JSON.parse(event.data)));
  events.addEventListener('error', () => {
    say(link, 'the worker does not answer; trying again');
    mark(link, 'bad');
    // A browser gives up where something else answers; we do not.
    if (events.readyState === EventSource.CLOSED) {
      events.close();
      setTimeout(connect, AGAIN_MS);
    }
  });
}

connect();
const asked = new URLSearchParams(location.search);
if (asked.get('id')) explain(asked);
