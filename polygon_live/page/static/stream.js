// The collector's events, for ever: fetched rather than by EventSource, which can't send the token.

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 10000;
/** An edition comes every second: after so long without any of one the line is dead, whatever it says. */
const SILENCE = 5000;
const TOKEN = "polygon-live token";

export class Refused extends Error {}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  keep: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** Calls `heard(name, body)` for each event, and `lost(why)` when contact is lost. Throws Refused for a wrong token. */
export async function follow(heard, lost) {
  let wait = FIRST_WAIT;
  for (;;) {
    try {
      await once((name, body) => {
        wait = FIRST_WAIT;
        heard(name, body);
      });
      lost("It ended the stream");
    } catch (why) {
      if (why instanceof Refused) throw why;
      lost(why instanceof TypeError ? "It can't be reached" : why.message);
    }
    await new Promise((resume) => setTimeout(resume, wait));
    wait = Math.min(LONGEST_WAIT, wait * 2);
  }
}

async function once(heard) {
  const given = token.get();
  const ending = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => ending.abort(new Error("It has sent nothing for five seconds")), SILENCE);
  };
  alive();
  try {
    const headers = given === null ? {} : { Authorization: `Bearer ${given}` };
    const response = await fetch("/stream", { headers, cache: "no-store", signal: ending.signal });
    if (response.status === 401) throw new Refused();
    if (!response.ok) throw new Error((await response.json()).error);
    await read(response.body.pipeThrough(new TextDecoderStream()).getReader(), alive, heard);
  } finally {
    clearTimeout(timer);
    ending.abort();
  }
}

/** Events as the collector writes them: a line with the name, a line with JSON, an empty line. A large one takes its time. */
async function read(reader, alive, heard) {
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const [name, data] = event.split("\n");
      heard(name.slice("event: ".length), JSON.parse(data.slice("data: ".length)));
    }
  }
}
