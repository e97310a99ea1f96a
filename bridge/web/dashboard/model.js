// What the page knows: topics, their fields, their last values. No DOM here.

const SPARK = 48; // points of a spark line
const DEPTH = 3; // how deep a JSON payload is looked into
const FIELDS = 24; // fields shown of one payload

/** The offset in an event id, "<gateway>/<epoch>-<offset>". */
export const offsetOf = (id) => Number(id.slice(id.lastIndexOf('-') + 1));

// Names whose last part says the unit, as many sensors write them.
const SUFFIX = {
  c: '°C', f: '°F', pct: '%', percent: '%', hpa: 'hPa', kpa: 'kPa', pa: 'Pa', bar: 'bar', v: 'V', mv: 'mV', a: 'A', ma: 'mA',
  w: 'W', kw: 'kW', wh: 'Wh', kwh: 'kWh', va: 'VA', hz: 'Hz', rpm: 'rpm', ppm: 'ppm', ppb: 'ppb', lux: 'lx', lx: 'lx', db: 'dB',
  dbm: 'dBm', kg: 'kg', g: 'g', mm: 'mm', cm: 'cm', m: 'm', km: 'km', ms: 'ms', s: 's', min: 'min', l: 'l', lpm: 'l/min',
};

/** The unit a name like temperature_c carries; empty if none. */
export function unitOfName(name) {
  const cut = name.lastIndexOf('_');
  return cut > 0 ? SUFFIX[name.slice(cut + 1).toLowerCase()] ?? '' : '';
}

/**
 * The values in an event: [{path, value, unit}]. A payload that is no object is one
 * value with the path ''. {"value": 3, "unit": "kg"} is one value with its unit.
 */
export function fieldsOf(face) {
  if (face.payload_text !== undefined) return [{ path: '', value: face.payload_text, unit: '' }];
  if (face.payload_base64 !== undefined) {
    const bytes = Math.floor((face.payload_base64.replace(/=+$/, '').length * 3) / 4);
    return [{ path: '', value: `${bytes} bytes of binary data`, unit: '' }];
  }
  const out = [];
  walk(face.payload, '', 0, out);
  return out;
}

function walk(value, path, depth, out) {
  if (out.length >= FIELDS) return;
  const plain = value !== null && typeof value === 'object' && !Array.isArray(value);
  if (!plain || depth === DEPTH || Object.keys(value).length === 0) {
    const shown = value !== null && typeof value === 'object' ? JSON.stringify(value) : value;
    out.push({ path, value: shown, unit: unitOfName(path) });
    return;
  }
  const unit = typeof value.unit === 'string' && typeof value.value === 'number' ? value.unit : null;
  for (const [key, inner] of Object.entries(value)) {
    if (unit !== null && key === 'unit') continue;
    if (unit !== null && key === 'value') out.push({ path: path ? `${path}.value` : 'value', value: inner, unit });
    else walk(inner, path ? `${path}.${key}` : key, depth + 1, out);
  }
}

/** A payload on one line, for lists. */
export function textOf(face) {
  if (face.payload_text !== undefined) return face.payload_text;
  if (face.payload_base64 !== undefined) return fieldsOf(face)[0].value;
  return JSON.stringify(face.payload);
}

/** How many decimals a number was sent with. */
export const decimals = (value) => (/\.(\d+)$/.exec(String(value))?.[1] ?? '').length;

/** A value for people; digits are the decimals its series has, so that it does not jump. */
export function format(value, digits = null) {
  if (typeof value === 'number') {
    const abs = Math.abs(value);
    if (abs !== 0 && (abs < 0.0001 || abs >= 1e12)) return value.toExponential(3);
    const most = abs >= 1000 ? 1 : abs >= 1 ? 2 : 4;
    const least = Math.min(most, digits ?? 0);
    return value.toLocaleString('en', { maximumFractionDigits: most, minimumFractionDigits: least }).replaceAll(',', '\u202f');
  }
  if (value === null || value === undefined) return '–';
  return String(value);
}

/** How long ago, for people; ms is a duration. */
export function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 1) return 'now';
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** All topics and their newest values. */
export class Model {
  topics = new Map();
  groups = new Map();
  units = new Map(); // topic -> unit, as devices declare it
  shape = 0; // grows when a topic or a field is new

  /** Takes an event; returns its topic, or null if it is not newer than what is known. */
  apply(face) {
    const offset = offsetOf(face.id);
    let topic = this.topics.get(face.topic);
    if (!topic) topic = this.#add(face.topic, fieldsOf(face).some(({ path }) => path.includes('.') || (path && path !== 'value')));
    if (offset <= topic.offset) return null;
    const time = Date.parse(face.time);
    const group = topic.group;
    if (time > group.time) {
      const gap = time - group.time;
      if (group.time && gap > 50) group.every = group.every ? group.every * 0.8 + gap * 0.2 : gap;
      group.time = time;
    }
    topic.offset = offset;
    topic.time = time;
    topic.face = face;
    for (const { path, value, unit } of fieldsOf(face)) {
      let series = topic.series.get(path);
      if (!series) {
        if (topic.series.size >= FIELDS) break;
        series = { key: `${face.topic}\n${path}`, topic, path, value, unit: '', digits: 0, spark: [] };
        topic.series.set(path, series);
        this.shape++;
      }
      series.value = value;
      series.unit = unit || (path === '' ? this.units.get(face.topic) ?? unitOfName(topic.name) : '');
      if (typeof value === 'number') {
        series.digits = Math.max(series.digits, decimals(value));
        series.spark.push(value);
        if (series.spark.length > SPARK) series.spark.shift();
      }
    }
    return topic;
  }

  /** Takes the next events as they come, however their offsets compare with those before. */
  startOver() {
    for (const topic of this.topics.values()) topic.offset = -1;
  }

  // Topics of one parent are one device: plant/oven/temperature, plant/oven/door. A payload with fields
  // right under the site, plant/boiler {"temperature": …}, is a device by itself.
  #add(name, fields) {
    const cut = name.lastIndexOf('/');
    const key = cut > 0 && !(fields && name.indexOf('/') === cut) ? name.slice(0, cut) : name;
    let group = this.groups.get(key);
    if (!group) {
      const at = key.lastIndexOf('/');
      group = { key, name: key.slice(at + 1) || key, path: at > 0 ? key.slice(0, at) : '', topics: [], time: 0, every: 0 };
      this.groups.set(key, group);
    }
    const topic = { topic: name, name: name.slice(cut + 1) || name, group, offset: -1, time: 0, face: null, series: new Map() };
    group.topics.push(topic);
    this.topics.set(name, topic);
    this.shape++;
    return topic;
  }
}

/** What to call a series beside its card's title. */
export function labelOf({ topic, path, unit }) {
  const group = topic.group;
  let name = path.replace(/\.value$/, '').split('.');
  const last = name.at(-1);
  if (unit && unitOfName(last) === unit) name[name.length - 1] = last.slice(0, last.lastIndexOf('_')); // temperature_c, in °C
  name = name.map((part) => part.replaceAll('_', ' '));
  if (!path || path === 'value' || group.topics.length > 1) {
    if (topic.topic !== group.key) name.unshift(topic.name);
    if (path === 'value') name.pop();
  }
  return name.filter(Boolean).join(' · ') || 'value';
}

/** Order as people expect it: device-2 before device-10. */
export const natural = new Intl.Collator('en', { numeric: true }).compare;
