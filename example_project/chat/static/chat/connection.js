// A WebSocket that comes back.
//
// After a loss it waits, longer each time and never exactly as long as the tab beside it,
// so that a restarted server is not met by everybody at once. A connection counts as good
// when the server has spoken on it, not when it opened. A socket can also die without
// closing (a cable, a sleeping laptop): one that is silent for several heartbeats is
// given up.
//
// Events: "open", "message" (detail: what was said), "lost" (detail: milliseconds until
// the next attempt), "refused" (detail: the closing code; there is no next attempt).

const SHORTEST = 500;
const LONGEST = 15_000;
const MISSED_BEATS = 3;

// The server's reasons for which coming back is useless: see chat/consumers.py.
const FINAL = new Set([4400, 4401, 4404]);

export class Connection extends EventTarget {
  #url;
  #silence;
  #socket = null;
  #attempts = 0;
  #timer = 0;
  #watch = 0;
  #heard = 0;

  constructor(url, heartbeat) {
    super();
    this.#url = url;
    this.#silence = MISSED_BEATS * heartbeat * 1000;
    addEventListener("online", () => this.now());
    addEventListener("offline", () => this.#socket && this.#lose());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.now();
    });
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  open() {
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#heard = Date.now();
    this.#watch = setInterval(() => {
      if (Date.now() - this.#heard > this.#silence) this.#lose();
    }, 1000);
    // A socket that was given up may still speak; only the current one is listened to.
    socket.addEventListener("open", () => {
      if (socket === this.#socket) this.#tell("open");
    });
    socket.addEventListener("message", (event) => {
      if (socket !== this.#socket) return;
      this.#heard = Date.now();
      this.#attempts = 0;
      this.#tell("message", JSON.parse(event.data));
    });
    socket.addEventListener("close", (event) => {
      if (socket === this.#socket) this.#lose(event.code);
    });
  }

  // True if it was handed to the socket, which does not mean that it arrived.
  send(content) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify(content));
    return true;
  }

  // Cut the waiting short.
  now() {
    if (!this.#timer) return;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.open();
  }

  #lose(code) {
    clearInterval(this.#watch);
    const socket = this.#socket;
    this.#socket = null;
    socket.close();
    if (FINAL.has(code)) {
      this.#tell("refused", code);
      return;
    }
    const longest = Math.min(LONGEST, SHORTEST * 2 ** this.#attempts);
    this.#attempts += 1;
    const wait = longest * (0.5 + Math.random() / 2);
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.open();
    }, wait);
    this.#tell("lost", wait);
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
