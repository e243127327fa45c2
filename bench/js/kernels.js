// Work of the loop of Node.js that has nothing to do with a network:
// kernels.js NAME N. It prints the result as the kernels in Go do.
'use strict';
const [name, n] = [process.argv[2], Number(process.argv[3])];

let seed = 1;
function random(limit) {
  seed = (seed * 48271) % 2147483647;
  return seed % limit;
}

const kernels = {
  'posts-1': (n, done) => {
    let left = n;
    const f = () => {
      if (--left === 0) done();
    };
    for (let i = 0; i < n; i++) setImmediate(f);
  },
  'timers-fire': (n, done) => {
    let left = n;
    const f = () => {
      if (--left === 0) done();
    };
    for (let i = 0; i < n; i++) setTimeout(f, random(50));
  },
  'timers-stop': (n, done) => {
    const timers = [];
    for (let i = 0; i < n; i++) timers.push(setTimeout(() => {}, random(60000)));
    for (const t of timers) clearTimeout(t);
    done();
  },
};

const f = kernels[name];
f(n / 10, () => setImmediate(() => {
  global.gc();
  const began = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  f(n, () => {
    const used = process.cpuUsage(cpu);
    console.log(JSON.stringify({
      Ops: n,
      Seconds: Number(process.hrtime.bigint() - began) / 1e9,
      CPU: (used.user + used.system) * 1000,
      RSS: process.memoryUsage().rss,
    }));
    process.exit(0);
  });
}));
