// The server's time, as it arrives over Server-Sent Events.
//
// A browser opens at most six HTTP/1.1 connections to a site, and a stream holds one for
// as long as it lasts: the stream of a hidden tab is closed, or the seventh tab would not
// load.

const PATIENCE = 15_000; // milliseconds before a refused stream is asked for again

const clock = document.querySelector("#clock");
let stream = null;
let retry = 0;

function open() {
  stream = new EventSource(clock.dataset.source);
  stream.addEventListener("tick", (event) => {
    const now = new Date(JSON.parse(event.data).now);
    clock.dateTime = now.toISOString();
    clock.textContent = now.toLocaleTimeString([], { hourCycle: "h23" });
    clock.classList.add("live");
  });
  stream.addEventListener("error", () => {
    clock.classList.remove("live");
    // A lost connection comes back by itself; a refusal is final unless we ask again.
    if (stream.readyState === EventSource.CLOSED) {
      retry = setTimeout(open, PATIENCE);
    }
  });
}

function close() {
  clearTimeout(retry);
  stream?.close();
  stream = null;
  clock.classList.remove("live");
}

function follow() {
  close();
  if (!document.hidden) open();
}

document.addEventListener("visibilitychange", follow);
addEventListener("pagehide", close);
addEventListener("pageshow", follow);
