// The cards: one per device, a row per value. At most ROWS rows are in the page,
// however many topics there are; the search finds the others.

import { age, format, labelOf, natural } from './model.js';

const ROWS = 240;
const SVG = 'http://www.w3.org/2000/svg';

/** Makes an element: el('p', {className}, child, …). */
export function el(name, props = {}, ...children) {
  const node = Object.assign(document.createElement(name), props);
  node.append(...children);
  return node;
}

export class Cards {
  #rows = new Map(); // series key -> its row
  #cards = new Map(); // group key -> its card
  #model;
  #root;
  #more;
  #onpick;
  #search = '';
  #picked = '';

  constructor(model, root, more, onpick) {
    this.#model = model;
    this.#root = root;
    this.#more = more;
    this.#onpick = onpick;
    root.addEventListener('click', (e) => {
      const row = e.target.closest('.row');
      if (row) onpick(row.series);
    });
  }

  set search(text) {
    this.#search = text.trim().toLowerCase();
    this.build();
  }

  set picked(key) {
    this.#rows.get(this.#picked)?.setAttribute('aria-pressed', 'false');
    this.#picked = key;
    this.#rows.get(key)?.setAttribute('aria-pressed', 'true');
  }

  /** Makes the cards anew, after a topic or the search changed. Rows are kept. */
  build() {
    const words = this.#search.split(/\s+/).filter(Boolean);
    const rows = new Map();
    const cards = new Map();
    const order = [];
    let left = ROWS;
    let hidden = 0;
    for (const group of [...this.#model.groups.values()].sort((a, b) => natural(a.key, b.key))) {
      const list = [];
      for (const topic of group.topics.toSorted((a, b) => natural(a.name, b.name))) {
        for (const series of topic.series.values()) {
          const text = `${topic.topic} ${series.path}`.toLowerCase();
          if (!words.every((word) => text.includes(word))) continue;
          if (left === 0) {
            hidden++;
            continue;
          }
          left--;
          const row = this.#rows.get(series.key) ?? this.#row(series);
          rows.set(series.key, row);
          list.push(row);
        }
      }
      if (!list.length) continue;
      const card = this.#cards.get(group.key) ?? this.#card(group);
      card.list.replaceChildren(...list.map((row) => row.item));
      card.node.style.setProperty('--rows', list.length); // its height, so that cards pack
      cards.set(group.key, card);
      order.push(card.node);
    }
    const focus = document.activeElement;
    this.#rows = rows;
    this.#cards = cards;
    this.#root.replaceChildren(...order);
    if (focus?.isConnected && focus !== document.activeElement) focus.focus({ preventScroll: true });
    this.#more.hidden = hidden === 0 && order.length > 0;
    this.#more.textContent = hidden ? `${format(hidden)} more values; search to find them` : words.length ? 'No topic matches' : '';
    for (const row of rows.values()) {
      this.#fill(row);
      row.label.textContent = labelOf(row.series);
      row.title = `${row.series.topic.topic} ${row.series.path}`;
    }
    this.tick(Date.now());
    return rows.size;
  }

  #card(group) {
    const age = el('span', { className: 'age' });
    const list = el('ul', { className: 'rows' });
    const head = el('header', {},
      el('h3', {}, group.path ? el('span', { className: 'path', textContent: `${group.path} / ` }) : '', group.name), age);
    return { group, age, list, node: el('article', { className: 'card' }, head, list) };
  }

  #row(series) {
    const spark = document.createElementNS(SVG, 'svg');
    spark.setAttribute('viewBox', '0 0 80 24');
    spark.setAttribute('preserveAspectRatio', 'none');
    spark.setAttribute('class', 'spark');
    spark.setAttribute('aria-hidden', 'true');
    const line = document.createElementNS(SVG, 'path');
    spark.append(line);
    const value = el('b');
    const unit = el('span', { className: 'unit' });
    const label = el('span', { className: 'label' });
    const row = el('button', { type: 'button', className: 'row' }, label, spark, el('span', { className: 'value' }, value, unit));
    row.setAttribute('aria-pressed', String(series.key === this.#picked));
    row.item = el('li', {}, row);
    Object.assign(row, { series, line, label, number: value, unit });
    return row;
  }

  #fill(row) {
    const { value, unit, spark, digits } = row.series;
    const text = format(value, digits);
    if (row.number.textContent !== text) row.number.textContent = text;
    if (row.unit.textContent !== unit) row.unit.textContent = unit;
    row.classList.toggle('text', typeof value !== 'number');
    if (spark.length > 1) row.line.setAttribute('d', sparkPath(spark));
  }

  /** Shows new values; topics is a set. */
  update(topics) {
    for (const topic of topics) {
      for (const series of topic.series.values()) {
        const row = this.#rows.get(series.key);
        if (row) this.#fill(row);
      }
    }
  }

  /** Lets the ages go on. */
  tick(now) {
    for (const { group, age: node, node: card } of this.#cards.values()) {
      const ms = now - group.time;
      const text = ms < 1000 ? 'now' : `${age(ms)} ago`;
      if (node.textContent !== text) node.textContent = text;
      card.dataset.late = ms > Math.max(30_000, group.every * 6);
    }
  }
}

function sparkPath(values) {
  let lo = Infinity;
  let hi = -Infinity;
  for (const v of values) {
    if (v < lo) lo = v;
    if (v > hi) hi = v;
  }
  const span = hi - lo;
  const step = 78 / (values.length - 1);
  let d = '';
  for (const [i, v] of values.entries()) {
    d += `${i ? 'L' : 'M'}${(1 + i * step).toFixed(1)} ${(span ? 21 - ((v - lo) / span) * 18 : 12).toFixed(1)}`;
  }
  return d;
}
