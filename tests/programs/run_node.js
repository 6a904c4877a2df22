// JIT, worker threads, child processes, timers, files, streams, sockets.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { execFileSync, spawn, spawnSync, fork } = require('child_process');
const crypto = require('crypto'), fs = require('fs'), net = require('net'), zlib = require('zlib');

if (process.argv[2] === 'child') {
  process.on('message', (m) => { process.send({ doubled: m.n * 2 }); process.disconnect(); });
} else if (!isMainThread) {
  const view = new Int32Array(workerData.shared);
  for (let i = 0; i < 5000; i++) Atomics.add(view, 0, 1);
  Atomics.wait(view, 1, 0, 10000);
  parentPort.postMessage(workerData.id);
} else {
  main().then(() => console.log('end'), (e) => { console.log('failed', e); process.exitCode = 1; });
}

const once = (emitter, name) => new Promise((resolve) => emitter.once(name, (...a) => resolve(a)));

async function main() {
  const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));
  console.log('jit', fib(27));
  let f = 0.5;
  for (let i = 0; i < 3e6; i++) f = f * 1.0000001 + (i & 3);
  console.log('float', f.toFixed(3));
  for (let i = 0; i < 200; i++) if (new Function('x', `return x + ${i}`)(1) !== i + 1) throw i;
  // (module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
  const code = Buffer.from('0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b', 'hex');
  console.log('wasm', (await WebAssembly.instantiate(code)).instance.exports.add(40, 2));

  const shared = new SharedArrayBuffer(8), view = new Int32Array(shared);
  const workers = [0, 1, 2, 3].map((id) => new Worker(__filename, { workerData: { id, shared } }));
  const done = workers.map((w) => once(w, 'message')), exits = workers.map((w) => once(w, 'exit'));
  while (Atomics.load(view, 0) < 20000) await new Promise((r) => setTimeout(r, 5));
  Atomics.store(view, 1, 1); Atomics.notify(view, 1);
  console.log('workers', (await Promise.all(done)).flat().sort(), (await Promise.all(exits)).flat(), view[0]);

  console.log('exec', execFileSync('/bin/echo', ['from', 'a child']).toString());
  console.log('sync', spawnSync('/bin/sh', ['-c', 'cat; exit 3'], { input: 'x'.repeat(100000) }).stdout.length);
  const cat = spawn('/bin/cat'); let size = 0;
  cat.stdout.on('data', (d) => { size += d.length; });
  cat.stdin.end(Buffer.alloc(500000, 97));
  console.log('spawn', await once(cat, 'close'), size);
  const sleep = spawn('/bin/sleep', ['20']); sleep.kill('SIGTERM');
  console.log('killed', await once(sleep, 'exit'));
  const child = fork(__filename, ['child']); child.send({ n: 21 });
  console.log('fork', await once(child, 'message'), await once(child, 'exit'));

  fs.writeFileSync('/tmp/file', 'text'.repeat(1000));
  const texts = await Promise.all([...Array(20)].map(() => fs.promises.readFile('/tmp/file', 'utf8')));
  console.log('files', texts.every((t) => t.length === 4000), fs.statSync('/tmp/file').size);
  const big = crypto.createHash('sha256').update(Buffer.alloc(1 << 20)).digest('hex');
  console.log('hash', big, zlib.gunzipSync(zlib.gzipSync('squeezed')).toString());
  const key = await new Promise((resolve, reject) =>
    crypto.pbkdf2('a', 'b', 1000, 16, 'sha1', (e, k) => (e ? reject(e) : resolve(k.toString('hex')))));
  console.log('pool', key);
  const server = net.createServer((s) => s.pipe(s)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = net.connect(server.address().port, '127.0.0.1'); client.write('echo');
  console.log('net', (await once(client, 'data'))[0].toString());
  client.end(); server.close();
  process.once('SIGUSR2', () => console.log('signal'));
  process.kill(process.pid, 'SIGUSR2');
  await new Promise((r) => setTimeout(r, 50));
  console.error('to stderr');
}
