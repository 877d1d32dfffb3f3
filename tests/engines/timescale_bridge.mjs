// PostgreSQL's wire protocol in front of TimescaleDB in WebAssembly, so that any client can speak to it.
//
// PGlite is one backend in this process: no sockets, no second session, no background workers. What a server has beyond
// that is done here, and no more:
//
// - Clients take turns. Who has begun a statement or a transaction has the backend for himself until it is idle again;
//   the others wait, first come, first served. So a client in an open transaction holds up everybody.
// - Who leaves with a transaction open has it rolled back before the next one's turn, and what he had sent and was not
//   begun yet is dropped.
// - COPY … FROM STDIN is collected and run as COPY … FROM '/dev/blob': then the backend's own answer follows, errors too.
// - Each client's prepared statements have names of their own. Settings (SET) and session advisory locks are everybody's,
//   time limits have no effect, and pg_stat_activity is empty.
// - The clock can be set: the file `clock` holds how many milliseconds it is to be ahead of the machine's.
//
// node timescale_bridge.mjs PORT PACKAGE LICENSE, in the folder for the data. The file `ready` holds the pid of who listens.
// LICENSE is timescale or apache.
import fs from 'node:fs';
import net from 'node:net';
import { pathToFileURL } from 'node:url';

const [port, packageFolder, license] = process.argv.slice(2);
const load = async (path) => import(pathToFileURL(`${packageFolder}/dist/${path}`));
const { PGlite } = await load('index.js');
const { timescaledb } = await load('timescaledb/index.js');

const NO_TLS = [80877103, 80877104];
const CANCEL = 80877102;
const PGC_SIGHUP = 2;
const COPY_IN = /^\s*copy\s+([\s\S]+?)\s+from\s+stdin\b([\s\S]*)$/i;

// Messages

function message(type, ...parts) {
  const body = Buffer.concat(parts);
  const head = Buffer.alloc(5);
  head.write(type);
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

const text = (string) => Buffer.from(`${string}\0`);
const query = (sql) => message('Q', text(sql));
const typeOf = (whole) => String.fromCharCode(whole[0]);

function* messagesIn(buffer) {
  for (let at = 0; at < buffer.length; at += 1 + buffer.readInt32BE(at + 1)) {
    yield buffer.subarray(at, at + 1 + buffer.readInt32BE(at + 1));
  }
}

// The same message with the client's own prefix before the name of a prepared statement; unnamed ones stay so.
function withOwnNames(whole, prefix) {
  const body = whole.subarray(5);
  let at = 0;
  switch (typeOf(whole)) {
    case 'P': break;
    case 'B': at = body.indexOf(0) + 1; break; // the portal's name comes first
    case 'C':
    case 'D':
      if (body[0] !== 0x53) return whole; // a portal, not a statement
      at = 1;
      break;
    default: return whole;
  }
  if (body[at] === 0) return whole;
  return message(typeOf(whole), body.subarray(0, at), Buffer.from(prefix), body.subarray(at));
}

// The one backend

class Backend {
  static async start() {
    const backend = new Backend();
    backend.database = await PGlite.create({ dataDir: 'cluster', extensions: { timescaledb }, relaxedDurability: true });
    // The configuration file, which a server reads when it starts. The library of the extension is part of this build:
    // that it is loaded, a server's clients see by the second setting.
    const settings = [`timescaledb.license = '${license}'`, 'timescaledb.max_background_workers = 0'];
    fs.appendFileSync('cluster/postgresql.conf', `\n${settings.join('\n')}\n`);
    backend.database.mod._ProcessConfigFile(PGC_SIGHUP);
    await backend.database.exec('set enable_seqscan = on'); // as on a server; PGlite turns it off
    return backend;
  }

  status = 'I';
  failed = false;
  #owner = null;
  #waiting = [];

  // Resolves when this client has the backend for himself.
  async turn(client) {
    if (this.#owner === client) return;
    if (this.#owner !== null) await new Promise((resolve) => this.#waiting.push([client, resolve]));
    this.#owner = client;
    setClock();
  }

  // The next one's turn, if nothing is open.
  yield(client) {
    if (this.#owner !== client || this.status !== 'I') return;
    const [next, resolve] = this.#waiting.shift() ?? [null, null];
    this.#owner = next;
    resolve?.();
  }

  has(client) {
    return this.#owner === client;
  }

  // What the backend answers to one message. Notes its state, and whether there was an error.
  async ask(whole) {
    const answer = Buffer.from(await this.database.execProtocolRaw(new Uint8Array(whole), { syncToFs: false }));
    this.failed = false;
    for (const part of messagesIn(answer)) {
      if (typeOf(part) === 'E') this.failed = true;
      if (typeOf(part) === 'Z') this.status = String.fromCharCode(part[5]);
    }
    return answer;
  }

  async copyIn(sql, parts) {
    await this.database._handleBlob(new Blob(parts));
    try {
      return await this.ask(query(sql));
    } finally {
      await this.database._cleanupBlob();
    }
  }
}

const machineNow = Date.now;
let ahead = 0;
Date.now = () => machineNow() + ahead; // the backend's clock reads this one

function setClock() {
  ahead = fs.existsSync('clock') ? Number(fs.readFileSync('clock', 'utf8')) : 0;
}

// A client

class Client {
  static #count = 0;

  constructor(socket, backend) {
    this.socket = socket;
    this.backend = backend;
    this.prefix = `client ${++Client.#count} `;
    this.statements = new Set();
    this.greeted = false;
    this.gone = false;
    this.copying = null;
    this.skipping = false;
    this.received = Buffer.alloc(0);
    this.work = Promise.resolve();
    socket.setNoDelay(true);
    socket.on('data', (data) => this.#take(data));
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => {
      this.gone = true;
      this.#next(() => this.#leave());
    });
  }

  #next(step) {
    this.work = this.work.then(step).catch((error) => {
      console.error(error);
      this.socket.destroy();
    });
  }

  #take(data) {
    this.received = Buffer.concat([this.received, data]);
    for (;;) {
      const head = this.greeted ? 1 : 0; // the first message has no type
      if (this.received.length < head + 4) return;
      const end = head + this.received.readInt32BE(head);
      if (this.received.length < end) return;
      const whole = Buffer.from(this.received.subarray(0, end));
      this.received = this.received.subarray(end);
      if (this.greeted) this.#next(() => this.#handle(whole));
      else this.#greet(whole);
    }
  }

  #greet(whole) {
    const code = whole.readInt32BE(4);
    if (NO_TLS.includes(code)) {
      this.socket.write('N');
      return;
    }
    if (code === CANCEL) { // nothing can be interrupted: the backend runs in this very thread
      this.socket.end();
      return;
    }
    this.greeted = true;
    const settings = {
      server_version: '17.5', client_encoding: 'UTF8', server_encoding: 'UTF8', DateStyle: 'ISO, MDY', TimeZone: 'UTC',
      integer_datetimes: 'on', standard_conforming_strings: 'on',
    };
    this.socket.write(Buffer.concat([
      message('R', Buffer.alloc(4)),
      ...Object.entries(settings).map(([name, value]) => message('S', text(name), text(value))),
      message('K', Buffer.alloc(8)),
      message('Z', Buffer.from('I')),
    ]));
  }

  async #handle(whole) {
    if (this.gone) return;
    const type = typeOf(whole);
    if (type === 'X') this.socket.end();
    else if (this.copying !== null) await this.#copy(type, whole);
    else if (this.skipping && type !== 'S') return; // after an error, up to the end of what was sent together
    else await this.#ask(type, whole);
  }

  async #ask(type, whole) {
    await this.backend.turn(this);
    if (this.gone) return;
    this.skipping = false;
    const copy = type === 'Q' && this.backend.status !== 'E' && COPY_IN.exec(whole.toString('utf8', 5, whole.length - 1));
    if (copy) {
      this.#invite(copy[1], copy[2]);
      return;
    }
    const named = withOwnNames(whole, this.prefix);
    if (type === 'P' && named !== whole) this.statements.add(named.toString('utf8', 5, named.indexOf(0, 5)));
    this.socket.write(await this.backend.ask(named));
    this.skipping = this.backend.failed && !'QS'.includes(type);
    if ('QS'.includes(type)) this.backend.yield(this);
  }

  #invite(target, options) {
    const binary = /binary/i.test(options) ? 1 : 0;
    this.copying = { sql: `copy ${target} from '/dev/blob' ${options}`, parts: [] };
    this.socket.write(message('G', Buffer.from([binary, 0, 0])));
  }

  async #copy(type, whole) {
    if (type === 'd') {
      this.copying.parts.push(whole.subarray(5));
      return;
    }
    if (type !== 'c' && type !== 'f') return; // flush and sync mean nothing here
    const { sql, parts } = this.copying;
    this.copying = null;
    const answer = type === 'c'
      ? await this.backend.copyIn(sql, parts)
      : await this.backend.ask(query("do $$ begin raise query_canceled using message = 'COPY from stdin failed'; end $$"));
    this.socket.write(answer);
    this.backend.yield(this);
  }

  async #leave() {
    if (!this.backend.has(this) && this.statements.size === 0) return;
    await this.backend.turn(this);
    await this.backend.ask(message('S')); // ends what was begun without one
    if (this.backend.status !== 'I') await this.backend.ask(query('rollback'));
    for (const name of this.statements) await this.backend.ask(query(`deallocate "${name}"`));
    this.backend.yield(this);
  }
}

fs.rmSync('ready', { force: true });
const backend = await Backend.start();
const server = net.createServer((socket) => new Client(socket, backend));
server.listen(Number(port), '127.0.0.1', () => fs.writeFileSync('ready', String(process.pid)));
process.on('SIGTERM', async () => {
  await backend.database.close();
  process.exit(0);
});
