// The live stream: snapshot, then everything after it, for ever. Resumes by itself.

const SILENCE = 40_000; // ms; the server says something every 15 s

/**
 * Calls on.event(face), on.gap(gap) and on.state(state, why), where state is
 * connecting, catching-up, live or reconnecting.
 */
export class Stream {
  position = ''; // epoch:offset of the last thing seen
  #on;
  #source = null;
  #heard = 0;
  #retry = 1000;

  constructor(on) {
    this.#on = on;
    setInterval(() => this.#watch(), 5000);
  }

  get offset() { return Number(this.position.slice(this.position.lastIndexOf(':') + 1)); }

  /** Loads what was there before, then follows. */
  async start() {
    this.#on.state('connecting', '');
    try {
      // A little of the past first, for the spark lines; then each topic's last value.
      for (const path of ['/api/history?limit=1000', '/api/last?']) {
        const past = await getJSON(`${path}&readable=1&topic=%23`);
        for (const face of past.events) this.#on.event(face, true);
        this.position = past.position;
      }
    } catch (err) {
      this.#later(() => this.start(), err.message);
      return;
    }
    this.#open();
  }

  #open() {
    // Last-Event-ID is for the browser's own reconnects; a new EventSource says it here.
    const source = new EventSource(`/events?topic=%23&readable=1&heartbeat=event&last_event_id=${encodeURIComponent(this.position)}`);
    this.#source = source;
    this.#heard = Date.now();
    const heard = (e) => {
      this.#heard = Date.now();
      this.position = e.lastEventId;
      this.#retry = 1000;
    };
    source.onopen = () => {
      this.#heard = Date.now();
      this.#on.state('catching-up', '');
    };
    source.onmessage = (e) => {
      heard(e);
      this.#on.event(JSON.parse(e.data), false);
    };
    source.addEventListener('gap', (e) => {
      heard(e);
      this.#on.gap(JSON.parse(e.data));
    });
    source.addEventListener('heartbeat', (e) => {
      heard(e);
      this.#on.state('live', '');
    });
    source.onerror = () => {
      if (source !== this.#source) return;
      if (source.readyState === EventSource.CONNECTING) {
        this.#on.state('reconnecting', '');
        return;
      }
      this.#refused();
    };
  }

  // An EventSource hides why it was refused; another request tells.
  async #refused() {
    this.#close();
    let why = '';
    try {
      await getJSON('/api/info');
      const answer = await fetch('/events?topic=%23&readable=1', { headers: { 'Last-Event-ID': this.position } });
      if (!answer.ok) why = (await problem(answer)).message;
      answer.body?.cancel();
    } catch (err) {
      why = err.message;
    }
    this.#later(() => this.#open(), why);
  }

  #later(what, why) {
    this.#on.state('reconnecting', why);
    setTimeout(what, this.#retry * (0.75 + Math.random() / 2));
    this.#retry = Math.min(this.#retry * 2, 15_000);
  }

  #close() {
    this.#source?.close();
    this.#source = null;
  }

  // A connection that is half open looks alive for ever.
  #watch() {
    if (this.#source?.readyState === EventSource.OPEN && Date.now() - this.#heard > SILENCE) {
      this.#close();
      this.#on.state('reconnecting', 'nothing came for a while');
      this.#open();
    }
  }
}

/** GETs JSON; an error carries the server's own words. */
export const getJSON = (path) => request(path);

/** POSTs JSON. */
export const postJSON = (path, body) => request(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });

async function request(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error('the gateway does not answer');
  }
  if (!answer.ok) throw await problem(answer);
  return answer.json();
}

async function problem(answer) {
  const body = await answer.json().catch(() => ({}));
  return Object.assign(new Error(body.detail || `${answer.status} ${answer.statusText}`), { status: answer.status });
}
