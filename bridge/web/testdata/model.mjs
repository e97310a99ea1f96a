// What the page makes of events; run beside the modules of the dashboard.
import assert from 'node:assert/strict';
import { age, decimals, fieldsOf, format, labelOf, Model, offsetOf, textOf, unitOfName } from './model.js';
import { ticks, timeTicks } from './chart.js';

const face = (offset, topic, rest) => ({ id: `gw-1/e1-${offset}`, topic, time: '2026-11-01T12:00:00Z', ...rest });
const shown = (rest) => fieldsOf(face(1, 'a', rest)).map((f) => `${f.path}=${f.value}${f.unit}`).join(' ');

assert.equal(offsetOf('plant-1/e-1-9007199254740991'), 9007199254740991);
assert.equal(shown({ payload: 21.5 }), '=21.5');
assert.equal(shown({ payload: null }), '=null');
assert.equal(shown({ payload: [1, 2] }), '=[1,2]');
assert.equal(shown({ payload: {} }), '={}');
assert.equal(shown({ payload_text: 'ON' }), '=ON');
assert.equal(shown({ payload_text: '' }), '=');
assert.equal(shown({ payload_base64: '/wECAw==' }), '=4 bytes of binary data');
assert.equal(shown({ payload: { temperature_c: 1, a: { b: { c: { d: 2 } } } } }), 'temperature_c=1°C a.b.c={"d":2}');
assert.equal(shown({ payload: { value: 3, unit: 'kg' } }), 'value=3kg');
assert.equal(shown({ payload: { flow: { value: 8, unit: 'l/min' }, unit: 'x' } }), 'flow.value=8l/min unit=x');
assert.equal(fieldsOf(face(1, 'a', { payload: Object.fromEntries(Array.from({ length: 99 }, (_, i) => [i, i])) })).length, 24);
assert.equal(textOf(face(1, 'a', { payload: { a: 1 } })), '{"a":1}');
assert.equal(unitOfName('humidity_pct'), '%');
assert.equal(unitOfName('c'), '');

assert.deepEqual([21.5, 230, 1450.25, 1284300, 0.00002, -18.4, 1e15, null, true, 'x'].map((v) => format(v)),
  ['21.5', '230', '1\u202f450.3', '1\u202f284\u202f300', '2.000e-5', '-18.4', '1.000e+15', '–', 'true', 'x']);
assert.equal(format(230, 1), '230.0');
assert.equal(decimals(0.25), 2);
assert.deepEqual([0, 59_000, 60_000, 7_200_000, 200_000_000, -5].map(age), ['now', '59 s', '1 min', '2 h', '2 d', 'now']);

const model = new Model();
model.units.set('p/scale/weight', 'kg');
const topic = model.apply(face(5, 'p/scale/weight', { payload: 40.5 }));
assert.equal(topic.series.get('').unit, 'kg');
assert.equal(model.apply(face(5, 'p/scale/weight', { payload: 41 })), null); // seen
assert.equal(model.apply(face(4, 'p/scale/weight', { payload: 41 })), null); // older
assert.equal(model.apply(face(6, 'p/scale/weight', { payload: 41 })).series.get('').value, 41);
assert.deepEqual([...model.groups.keys()], ['p/scale']);
assert.equal(labelOf(topic.series.get('')), 'weight');
const climate = model.apply(face(7, 'p/room/climate', { payload: { temperature_c: 20 } }));
assert.equal(labelOf(climate.series.get('temperature_c')), 'temperature');
model.apply(face(8, 'p/room/door', { payload_text: 'open' }));
assert.equal(labelOf(climate.series.get('temperature_c')), 'climate · temperature');
model.startOver();
assert.notEqual(model.apply(face(1, 'p/scale/weight', { payload: 1 })), null);
for (let i = 0; i < 200; i++) model.apply(face(100 + i, 'p/scale/weight', { payload: i }));
assert.equal(topic.series.get('').spark.length, 48);

assert.deepEqual(ticks(0, 1, 4), [0, 0.25, 0.5, 0.75, 1]);
assert.deepEqual(ticks(-19.7, -18.4, 4), [-19.5, -19, -18.5]);
assert.deepEqual(ticks(5, 5, 3).length > 0, true);
assert.equal(timeTicks(0, 600_000, 10).length, 11);
