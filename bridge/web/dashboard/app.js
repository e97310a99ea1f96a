// The page: the stream feeds the model, the model feeds the views, a few times a second.

import { Cards, el } from './cards.js';
import { Chart } from './chart.js';
import { fieldsOf, format, Model, offsetOf } from './model.js';
import { message, Messages, showDevices, showSeen, showUplinks } from './panels.js';
import { getJSON, postJSON, Stream } from './stream.js';

const $ = (id) => document.getElementById(id);
const model = new Model();
const messages = new Messages($('messages'));
const cards = new Cards(model, $('cards'), $('more'), (series) => pick(series, true));
const chart = new Chart($('canvas'), $('tip'));
const calm = matchMedia('(prefers-reduced-motion: reduce)');

let skew = 0; // the gateway's clock minus ours, ms
const gatewayNow = () => Date.now() + skew;
chart.now = gatewayNow;

// ---- the stream

const dirty = new Set();
let recent = []; // when events came, for the rate
let started = false; // the stream has caught up once
let begun = 0; // when

const stream = new Stream({
  event(face, past) {
    const topic = model.apply(face);
    if (!past && started) recent.push(performance.now());
    if (!topic) return;
    dirty.add(topic);
    messages.add(face);
    if (shown && topic.topic === shown.topic && !past) addToChart(face);
  },
  gap(gap) {
    const n = gap.to - gap.from;
    if (gap.reason === 'unknown') { // offsets of two histories do not compare
      model.startOver();
      const series = shown && model.topics.get(shown.topic)?.series.get(shown.path);
      if (series) loadChart(series.topic, series.path);
    }
    const why = {
      trimmed: 'they are older than what the journal keeps',
      damaged: 'they are damaged on the gateway’s disk',
      lost: 'the gateway lost power before they were on disk',
      unknown: 'the gateway has another history than this page knew',
    }[gap.reason] ?? gap.reason;
    notice(gap.reason === 'unknown' ? `This page starts over: ${why}.` : `Up to ${format(n)} events are missing here: ${why}.`);
  },
  state(state, why) {
    setState(state, why);
    if (state === 'live' && !started) {
      started = true;
      begun = performance.now();
      render();
    }
  },
});

let state = 'connecting';
let stateTimer = 0;

function setState(next, why) {
  clearTimeout(stateTimer);
  const show = () => {
    state = next;
    $('state').dataset.state = document.body.dataset.state = next;
    $('state').title = why;
    $('state-text').textContent = { connecting: 'connecting', 'catching-up': 'catching up', behind: 'behind', live: 'live', reconnecting: why ? `reconnecting: ${why}` : 'reconnecting' }[next];
  };
  // Catching up mostly takes no time, and then nobody needs to know.
  if (next === 'catching-up' && state !== 'connecting') stateTimer = setTimeout(show, 400);
  else if (next === 'catching-up') stateTimer = setTimeout(show, 800);
  else show();
}

function notice(text) {
  const close = el('button', { type: 'button', textContent: 'Dismiss', className: 'quiet' });
  const line = el('div', { className: 'notice' }, el('span', { textContent: text }), close);
  close.onclick = () => line.remove();
  $('notices').append(line);
  while ($('notices').children.length > 4) $('notices').firstChild.remove();
}

// ---- the chart

let shown = null; // {topic, path}
let chartSeen = -1; // the newest offset in the chart
let loading = 0;

/** Shows a series; by hand says that somebody asked for it. */
function pick(series, byHand) {
  const topic = series.topic;
  if (shown?.topic !== topic.topic) loadChart(topic, series.path);
  else setField(series.path);
  if (!byHand) return;
  history.replaceState(null, '', `#${new URLSearchParams({ topic: topic.topic, field: series.path })}`);
  const box = $('chart').getBoundingClientRect();
  if (box.top < 0 || box.top > innerHeight - 160) {
    $('chart').scrollIntoView({ behavior: calm.matches ? 'auto' : 'smooth', block: 'start' });
  }
}

let past = []; // [ms, fields, face] of the topic shown

async function loadChart(topic, path) {
  const turn = ++loading;
  shown = { topic: topic.topic, path };
  past = [];
  chartSeen = -1;
  $('chart').hidden = false;
  $('chart-topic').textContent = topic.topic;
  chart.points = [];
  setField(path);
  note('');
  try {
    const answer = await getJSON(`/api/history?limit=5000&readable=1&topic=${encodeURIComponent(topic.topic)}`);
    if (turn !== loading) return;
    const live = past;
    past = [];
    chartSeen = -1;
    for (const face of answer.events) remember(face);
    for (const [, , face] of live) remember(face); // what came while we asked
  } catch (err) {
    if (turn === loading) note(`The history cannot be had: ${err.message}`);
  }
  if (turn === loading) setField(shown.path);
}

function remember(face) {
  const offset = offsetOf(face.id);
  if (offset <= chartSeen) return null;
  chartSeen = offset;
  const fields = new Map(fieldsOf(face).map((f) => [f.path, f.value]));
  past.push([Date.parse(face.time), fields, face]);
  if (past.length > 40_000) past.splice(0, 10_000);
  return past.at(-1);
}

function addToChart(face) {
  const entry = remember(face);
  const value = entry?.[1].get(shown.path);
  if (typeof value === 'number') chart.push(entry[0], value);
}

function setField(path) {
  shown.path = path;
  chart.points = [];
  for (const [ms, fields] of past) {
    const value = fields.get(path);
    if (typeof value === 'number') chart.push(ms, value);
  }
  const topic = model.topics.get(shown.topic);
  const series = [...topic.series.values()];
  const numeric = series.filter((s) => s.spark.length);
  cards.picked = `${shown.topic}\n${path}`;
  const many = numeric.length > 1;
  $('fields').hidden = !many;
  $('fields').replaceChildren($('fields').firstElementChild, ...(many ? numeric.map((s) => {
    const radio = el('input', { type: 'radio', name: 'field', value: s.path, checked: s.path === path });
    radio.onchange = () => pick(s, true);
    return el('label', {}, radio, el('span', { textContent: s.path || 'value' }));
  }) : []));
  showChart();
}

function note(text) {
  $('chart-note').textContent = text;
  $('chart-note').hidden = text === '';
}

function showChart() {
  if (!shown) return;
  const series = model.topics.get(shown.topic).series.get(shown.path);
  const numeric = Boolean(series?.spark.length);
  $('chart-value').textContent = series ? format(series.value, series.digits) : '';
  $('chart-unit').textContent = series?.unit ?? '';
  $('chart').classList.toggle('is-text', !numeric);
  $('plot').hidden = !numeric;
  $('stats').hidden = !numeric;
  $('texts').hidden = numeric;
  if (!numeric) {
    $('texts').replaceChildren(...past.slice(-12).reverse().map(([, , face]) => message(face)));
    return;
  }
  const unit = series.unit ? ` ${series.unit}` : '';
  chart.format = (v) => format(v, series.digits) + unit;
  chart.draw();
  const seen = chart.visible(gatewayNow());
  let [lo, hi, sum] = [Infinity, -Infinity, 0];
  for (const [, v] of seen) {
    lo = Math.min(lo, v);
    hi = Math.max(hi, v);
    sum += v;
  }
  const facts = seen.length ? [['lowest', chart.format(lo)], ['average', chart.format(sum / seen.length)], ['highest', chart.format(hi)], ['readings', format(seen.length)]] : [['readings', '0']];
  $('stats').replaceChildren(...facts.map(([what, value]) => el('div', {}, el('dt', { textContent: what }), el('dd', { textContent: value }))));
  $('canvas').setAttribute('aria-label', `Chart of ${shown.topic} ${shown.path}. Now ${chart.format(series.value)}. ${facts.map((f) => f.join(' ')).join(', ')}.`);
  if (!seen.length && !$('chart-note').textContent) note('No reading in this window');
  else if (seen.length && $('chart-note').textContent === 'No reading in this window') note('');
}

chart.onread = ([ms, value]) => { $('chart-live').textContent = `${chart.format(value)} at ${new Date(ms).toLocaleTimeString()}`; };

function setWindow(seconds) {
  chart.window = seconds * 1000;
  localStorage.setItem('window', seconds);
  showChart();
}

for (const radio of $('windows').elements) radio.onchange = () => setWindow(Number(radio.value));
const kept = localStorage.getItem('window') ?? '600';
const radio = [...$('windows').elements].find((r) => r.value === kept) ?? $('windows').elements[1];
radio.checked = true;
chart.window = Number(radio.value) * 1000;

// A link or a reload says what to show; else the first thing that moves.
function pickFirst() {
  if (shown) return;
  const wanted = new URLSearchParams(location.hash.slice(1));
  const linked = model.topics.get(wanted.get('topic') ?? '');
  if (linked?.series.size) {
    pick(linked.series.get(wanted.get('field') ?? '') ?? linked.series.values().next().value, false);
    return;
  }
  if (!started) return;
  let best = null;
  let most = 0;
  for (const topic of model.topics.values()) {
    for (const series of topic.series.values()) {
      const turns = series.spark.filter((v, i, all) => i > 1 && (v - all[i - 1]) * (all[i - 1] - all[i - 2]) < 0).length; // a counter has none
      const score = turns ? series.spark.length + (series.unit ? 100 : 0) : 0;
      if (score > most) [best, most] = [series, score];
    }
  }
  if (best) pick(best, false);
}

addEventListener('hashchange', () => {
  shown = null;
  pickFirst();
});

// ---- what is shown, a few times a second

let shape = -1;

function render() {
  if (document.hidden) return;
  if (model.shape !== shape) {
    shape = model.shape;
    cards.build();
    $('count').textContent = model.topics.size === 1 ? '1 topic' : `${format(model.topics.size)} topics`;
    $('empty').hidden = model.topics.size > 0 || !started;
    $('values').classList.toggle('is-empty', model.topics.size === 0);
  } else {
    cards.update(dirty);
  }
  dirty.clear();
  messages.show();
  pickFirst();
}

function everySecond() {
  const now = performance.now();
  const span = 5000;
  let old = 0;
  while (old < recent.length && recent[old] < now - span) old++;
  recent.splice(0, old);
  const rate = (recent.length * 1000) / Math.min(span, Math.max(1000, now - begun));
  $('rate').textContent = rate >= 10 || rate === 0 ? format(Math.round(rate)) : rate.toFixed(1);
  if (document.hidden) return;
  cards.tick(gatewayNow());
  showChart();
}

let lastTop = 0;

async function poll() {
  if (document.hidden) return;
  try {
    const asked = Date.now();
    const [info, uplinks, devices] = await Promise.all(['/api/info', '/api/uplinks', '/api/devices'].map(getJSON));
    const ms = Date.parse(info.time) - (asked + Date.now()) / 2;
    if (Math.abs(ms - skew) > 250) skew = ms; // less is the network
    $('gateway').textContent = info.gateway;
    document.title = `${info.gateway} – Weir`;
    $('gateway').title = `Weir ${info.version}`;
    showUplinks($('uplinks'), uplinks, gatewayNow());
    showDevices($('devices'), devices, gatewayNow());
    pollSeen();
    for (const device of devices) for (const m of device.measurements ?? []) if (m.unit) model.units.set(m.topic, m.unit);
    // Behind: what was newest at the last look is still far from here.
    const behind = lastTop - stream.offset;
    if (state === 'live' && behind > 500) setState('behind', `${behind} journal entries`);
    else if (state === 'behind' && behind <= 500) setState('live', '');
    lastTop = Number(info.position.slice(info.position.lastIndexOf(':') + 1));
  } catch { // the stream says that the gateway is away
  }
}

let maySee = true; // clients that are no device: who may manage the gateway

async function pollSeen() {
  if (!maySee) return;
  let clients = [];
  try {
    clients = await getJSON('/api/devices/seen');
  } catch (err) {
    maySee = err.status !== 403;
  }
  $('seen-panel').hidden = clients.length === 0;
  if (!$('seen').contains(document.activeElement)) showSeen($('seen'), clients, gatewayNow(), adopt); // who is on a button stays there
}

async function adopt(client, base) {
  try {
    const done = await postJSON('/api/devices/seen/adopt', { client, base });
    notice(`Device ${done.id} is in ${done.file}. Restart the gateway to use it.`);
  } catch (err) {
    notice(`Not adopted: ${err.message}`);
  }
}

$('try').textContent = `mosquitto_pub -h ${location.hostname} -t test/hello -m 21.5`;
$('search').oninput = (e) => { cards.search = e.target.value; };
$('pause').onclick = () => {
  messages.paused = !messages.paused;
  $('pause').setAttribute('aria-pressed', messages.paused);
  $('pause').textContent = messages.paused ? 'Resume' : 'Pause';
};
addEventListener('keydown', (e) => {
  if (e.key === '/' && !/^(INPUT|TEXTAREA)$/.test(e.target.tagName)) {
    e.preventDefault();
    $('search').focus();
  }
  if (e.key === 'Escape' && e.target === $('search')) {
    $('search').value = '';
    cards.search = '';
  }
});
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  poll();
  render();
  everySecond();
});

await poll();
stream.start();
setInterval(render, 250);
setInterval(everySecond, 1000);
setInterval(poll, 3000);
// The short window moves visibly; the others need a look a second.
setInterval(() => { if (shown && !document.hidden && !calm.matches && chart.window <= 60_000 && !$('plot').hidden) chart.draw(); }, 100);
