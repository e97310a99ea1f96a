// A line chart of one series over time, on a canvas.

import { decimals } from './model.js';

const PAD = { top: 12, right: 14, bottom: 24, left: 52 }; // left grows with the labels

/** Round numbers that cover lo to hi in about n steps. */
export function ticks(lo, hi, n) {
  const span = hi - lo || 1;
  const raw = span / Math.max(1, n);
  const mag = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((m) => m * mag >= raw) * mag;
  const out = [];
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

const STEPS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800].map((s) => s * 1000);

/** The instants, in ms, to label between from and to; at most n. */
export function timeTicks(from, to, n) {
  const step = STEPS.find((s) => (to - from) / s <= n) ?? 3_600_000;
  const zone = new Date(from).getTimezoneOffset() * 60_000;
  const out = [];
  for (let t = Math.ceil((from - zone) / step) * step + zone; t <= to; t += step) out.push(t);
  return out;
}

export const clock = (ms, seconds = true) =>
  new Date(ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', ...(seconds && { second: '2-digit' }), hourCycle: 'h23' });

export class Chart {
  points = []; // [ms, value], by time
  window = 600_000; // ms
  format = String;
  onread = () => {}; // told the point under the cursor, or null

  #canvas;
  #tip;
  #cursor = null; // the time that is pointed at
  #scale = null;

  constructor(canvas, tip) {
    this.#canvas = canvas;
    this.#tip = tip;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener('pointermove', (e) => this.#point(this.#timeAt(e.offsetX)));
    canvas.addEventListener('pointerleave', () => this.#point(null));
    canvas.addEventListener('blur', () => this.#point(null));
    canvas.addEventListener('keydown', (e) => this.#key(e));
  }

  /** Adds a point; late ones find their place. */
  push(ms, value) {
    const p = this.points;
    let i = p.length;
    while (i > 0 && p[i - 1][0] > ms) i--;
    p.splice(i, 0, [ms, value]);
    if (p.length > 40_000) p.splice(0, 10_000);
  }

  /** The points in the window that ends now. */
  visible(now) {
    const from = now - this.window;
    return this.points.filter(([t]) => t >= from && t <= now);
  }

  #timeAt(x) { return this.#scale && this.#scale.from + ((x - PAD.left) / this.#scale.w) * this.window; }

  #key(e) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (e.key === 'Escape') return this.#point(null);
    if (!step || !this.#scale?.seen.length) return;
    e.preventDefault();
    const seen = this.#scale.seen;
    const at = this.#cursor === null ? (step < 0 ? seen.length : -1) : this.#nearest();
    const p = seen[Math.min(seen.length - 1, Math.max(0, at + step))];
    this.#point(p[0]);
    this.onread(p);
  }

  #point(time) {
    this.#cursor = time;
    this.draw();
  }

  #nearest() {
    const seen = this.#scale.seen;
    let best = 0;
    for (let i = 1; i < seen.length; i++) {
      if (Math.abs(seen[i][0] - this.#cursor) < Math.abs(seen[best][0] - this.#cursor)) best = i;
    }
    return best;
  }

  draw(now = this.now()) {
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const g = canvas.getContext('2d');
    const css = getComputedStyle(canvas);
    const color = (name) => css.getPropertyValue(name).trim();
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = `11px ${css.fontFamily}`;

    const seen = this.visible(now);
    const h = height - PAD.top - PAD.bottom;
    const from = now - this.window;
    let lo = Infinity;
    let hi = -Infinity;
    for (const [, v] of seen) {
      if (v < lo) lo = v;
      if (v > hi) hi = v;
    }
    if (lo > hi) [lo, hi] = [0, 1];
    const room = (hi - lo) * 0.08 || Math.abs(hi) * 0.05 || 1;
    [lo, hi] = [lo - (lo >= 0 && lo < room ? lo : room), hi + room];
    const rows = ticks(lo, hi, Math.max(2, Math.floor(h / 52)));
    const step = rows.length > 1 ? rows[1] - rows[0] : 1;
    const digits = Math.max(0, Math.min(6, decimals(Number(step.toPrecision(6)))));
    const labels = rows.map((v) => Math.abs(v) >= 1e9 ? v.toExponential(3) : v.toLocaleString('en', { maximumFractionDigits: digits, minimumFractionDigits: digits }).replaceAll(',', '\u202f'));
    PAD.left = Math.max(36, ...labels.map((text) => g.measureText(text).width + 16));
    const w = width - PAD.left - PAD.right;
    const x = (t) => PAD.left + ((t - from) / this.window) * w;
    const y = (v) => PAD.top + h - ((v - lo) / (hi - lo)) * h;
    this.#scale = { from, w, seen };

    g.lineWidth = 1;
    g.textBaseline = 'middle';
    g.textAlign = 'right';
    for (const [i, v] of rows.entries()) {
      g.strokeStyle = color('--line');
      g.beginPath();
      g.moveTo(PAD.left, Math.round(y(v)) + 0.5);
      g.lineTo(width - PAD.right, Math.round(y(v)) + 0.5);
      g.stroke();
      g.fillStyle = color('--muted');
      g.fillText(labels[i], PAD.left - 10, y(v));
    }
    g.textAlign = 'center';
    g.textBaseline = 'alphabetic';
    for (const t of timeTicks(from, now, Math.max(2, Math.floor(w / 72)))) {
      const at = x(t);
      if (at < PAD.left + 22 || at > width - PAD.right - 22) continue;
      g.fillText(clock(t, this.window <= 600_000 && (t % 60_000 !== 0 || this.window <= 60_000)), at, height - 6);
    }
    if (seen.length) this.#line(g, seen, x, y, PAD.top + h, color, w);
    this.#mark(g, x, y, h, color);
  }

  #line(g, seen, x, y, floor, color, w) {
    const accent = color('--accent');
    // A pause much longer than usual is no line: nothing was measured there.
    const usual = seen.length > 2 ? seen.slice(1).map((p, i) => p[0] - seen[i][0]).sort((a, b) => a - b)[seen.length >> 1] ?? 0 : 0;
    const pause = Math.max(usual * 8, 3000, this.window / 60);
    const parts = [];
    let part = null;
    let last = -Infinity;
    for (const p of seen) {
      if (p[0] - last > pause) parts.push((part = []));
      part.push(p);
      last = p[0];
    }
    g.lineWidth = 1.5;
    g.lineJoin = g.lineCap = 'round';
    for (const p of parts) {
      const path = new Path2D();
      for (const [i, [px, py]] of thin(p, x, y, w).entries()) i ? path.lineTo(px, py) : path.moveTo(px, py);
      const left = x(p[0][0]);
      const right = x(p[p.length - 1][0]);
      if (p.length === 1) {
        g.fillStyle = accent;
        g.beginPath();
        g.arc(left, y(p[0][1]), 2.5, 0, 7);
        g.fill();
        continue;
      }
      const area = new Path2D(path);
      area.lineTo(right, floor);
      area.lineTo(left, floor);
      const fade = g.createLinearGradient(0, PAD.top, 0, floor);
      fade.addColorStop(0, color('--fade-top'));
      fade.addColorStop(1, color('--fade-bottom'));
      g.fillStyle = fade;
      g.fill(area);
      g.strokeStyle = accent;
      g.stroke(path);
    }
    const end = seen[seen.length - 1];
    g.fillStyle = accent;
    g.beginPath();
    g.arc(x(end[0]), y(end[1]), 3, 0, 7);
    g.fill();
  }

  #mark(g, x, y, h, color) {
    const { seen } = this.#scale;
    if (this.#cursor === null || !seen.length) {
      this.#tip.hidden = true;
      return;
    }
    const [t, v] = seen[this.#nearest()];
    g.strokeStyle = color('--muted');
    g.setLineDash([3, 3]);
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(x(t), PAD.top);
    g.lineTo(x(t), PAD.top + h);
    g.stroke();
    g.setLineDash([]);
    g.fillStyle = color('--surface');
    g.strokeStyle = color('--accent');
    g.lineWidth = 2;
    g.beginPath();
    g.arc(x(t), y(v), 4, 0, 7);
    g.fill();
    g.stroke();
    const tip = this.#tip;
    tip.replaceChildren(Object.assign(document.createElement('b'), { textContent: this.format(v) }), ` ${clock(t)}`);
    tip.hidden = false;
    const half = tip.offsetWidth / 2;
    tip.style.left = `${Math.min(this.#canvas.clientWidth - half - 4, Math.max(half + 4, x(t)))}px`;
    tip.style.top = `${Math.max(4, y(v) - 42)}px`;
  }

  now() { return Date.now(); }
}

// Where several points share a pixel column, its first, lowest, highest and last will do.
function thin(points, x, y, w) {
  const out = [];
  if (points.length < 3 * w) {
    for (const [t, v] of points) out.push([x(t), y(v)]);
    return out;
  }
  let column = null;
  let lo, hi, last;
  const flush = () => {
    if (column !== null) out.push([column, lo], [column, hi], [column, last]);
  };
  for (const [t, v] of points) {
    const px = Math.round(x(t));
    const py = y(v);
    if (px !== column) {
      flush();
      column = px;
      out.push([px, py]);
      lo = hi = py;
    }
    lo = Math.min(lo, py);
    hi = Math.max(hi, py);
    last = py;
  }
  flush();
  return out;
}
