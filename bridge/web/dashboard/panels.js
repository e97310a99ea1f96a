// The panels at the side: uplinks, devices, recent messages.

import { el } from './cards.js';
import { age, format, offsetOf, textOf } from './model.js';
import { clock } from './chart.js';

const since = (time, now) => (time ? age(now - Date.parse(time)) : '');

function item(name, kind, up, facts, reason, word = up ? 'up' : 'down') {
  const state = el('span', { className: 'pill', textContent: word });
  state.dataset.up = up;
  const row = el('li', {}, el('div', { className: 'item' }, el('strong', { textContent: name }), el('span', { className: 'kind', textContent: kind }), state));
  if (facts.length) {
    row.append(el('dl', { className: 'facts' }, ...facts.map(([what, value]) => el('div', {}, el('dt', { textContent: what }), el('dd', { textContent: value })))));
  }
  if (!up && reason) row.append(el('p', { className: 'reason', textContent: reason }));
  return row;
}

const nothing = (text) => [el('li', { className: 'none', textContent: text })];

export function showUplinks(root, uplinks, now) {
  root.replaceChildren(...(uplinks.length ? uplinks.map((u) => {
    const facts = [[u.up ? 'up for' : 'down for', since(u.since, now)], ['queued', format(u.queued)]];
    if (u.oldest && u.queued) facts.push(['oldest', since(u.oldest, now)]);
    facts.push(['delivered', format(u.delivered)]);
    if (u.retried) facts.push(['retried', format(u.retried)]);
    if (u.dead) facts.push(['set aside', format(u.dead)]);
    if (u.failures) facts.push(['failures', format(u.failures)]);
    if (u.next_attempt) {
      const left = age(Date.parse(u.next_attempt) - now);
      facts.push(['next attempt', left === 'now' ? left : `in ${left}`]);
    }
    if (u.up && u.last_failed) facts.push(['last failed', since(u.last_failed, now)]);
    return item(u.uplink, u.sink, u.up, facts, u.reason, u.state);
  }) : nothing('No uplink is configured. Events stay on this gateway.')));
}

export function showDevices(root, devices, now) {
  root.replaceChildren(...(devices.length ? devices.map((d) => {
    const facts = [['frames', format(d.frames)]];
    if (d.last_frame) facts.push(['last', since(d.last_frame, now)]);
    if (d.garbage) facts.push(['garbage', format(d.garbage)]);
    return item(d.name || d.id, d.area ? `${d.driver} · ${d.area}` : d.driver, d.up, facts, d.reason, d.up ? 'online' : 'offline');
  }) : nothing('No device is configured. MQTT clients may publish without.')));
}

/** MQTT clients that are no device; adopt(client, base) is what the button does. */
export function showSeen(root, clients, now, adopt) {
  const rows = [];
  for (const c of clients) {
    for (const guess of c.guesses.length ? c.guesses : [null]) {
      const button = el('button', { type: 'button', className: 'quiet', textContent: 'Adopt' });
      button.onclick = () => { button.disabled = true; adopt(c.client, guess?.base).finally(() => { button.disabled = false; }); };
      const facts = [['last', since(c.last, now)], ['messages', format(c.messages)]];
      if (c.user) facts.push(['user', c.user]);
      rows.push(el('li', { title: `${c.topics.join('\n')}${c.more ? '\n…' : ''}` },
        el('div', { className: 'item' }, el('strong', { textContent: guess?.base ?? c.client }), el('span', { className: 'kind', textContent: guess?.profile ?? 'MQTT' }), button),
        el('dl', { className: 'facts' }, ...facts.map(([what, value]) => el('div', {}, el('dt', { textContent: what }), el('dd', { textContent: value })))),
        el('code', { textContent: `${c.topic} ${c.shape}` })));
    }
  }
  root.replaceChildren(...rows);
}

/** The newest messages, newest first. */
export class Messages {
  #kept = [];
  #root;
  #dirty = false;
  paused = false;

  constructor(root) { this.#root = root; }

  add(face) {
    this.#kept.push(face);
    if (this.#kept.length > 120) this.#kept.splice(0, 60);
    this.#dirty = true;
  }

  show() {
    if (this.paused || !this.#dirty) return;
    this.#dirty = false;
    const have = new Map([...this.#root.children].map((node) => [node.offset, node]));
    this.#root.replaceChildren(...this.#kept.slice(-30).reverse().map((face) => {
      const offset = offsetOf(face.id);
      return have.get(offset) ?? Object.assign(message(face), { offset });
    }));
  }
}

export function message(face) {
  const text = textOf(face);
  return el('li', { title: face.id },
    el('div', {}, el('time', { textContent: clock(Date.parse(face.time)), dateTime: face.time }), el('span', { className: 'topic', textContent: face.topic })),
    el('code', { textContent: text.length > 240 ? `${text.slice(0, 240)}…` : text || '(empty)' }));
}
