// A server on Node.js for the benchmarks: server.js MODE DELAY_MS. It prints
// where it listens and ends with standard input.
'use strict';
const net = require('net');
const http = require('http');

const [mode, delay] = [process.argv[2], Number(process.argv[3])];
const piece = Buffer.from('sixteen bytes. \n');
const hello = 'Hello, World!\n';
const answer = 'HTTP/1.1 200 OK\r\nDate: Wed, 03 Oct 2012 23:43:10 GMT\r\n' +
  'Content-Type: text/plain\r\nContent-Length: 9\r\n\r\nomglolwtf';

const conns = new Set();
const onData = {
  echo: (c, data) => c.write(data),
  pieces: (c) => {
    for (let i = 0; i < 4; i++) c.write(piece);
  },
  broadcast: (c, data) => {
    for (const to of conns) to.write(data);
  },
  delayed: (c) => setTimeout(() => c.end(answer), delay),
};

function tcp() {
  const f = onData[mode];
  return net.createServer({ noDelay: true }, (c) => {
    if (mode === 'broadcast') {
      conns.add(c);
      c.on('close', () => conns.delete(c));
    }
    c.on('data', (data) => f(c, data));
    c.on('error', () => {});
  });
}

function web() {
  return http.createServer((req, res) => {
    const headers = { 'Content-Type': 'text/plain', 'Content-Length': hello.length };
    if (mode === 'http') {
      res.writeHead(200, headers);
      res.end(hello);
      return;
    }
    setTimeout(() => {
      headers.Connection = 'close';
      res.writeHead(200, headers);
      res.end(hello);
    }, delay);
  });
}

const server = mode.startsWith('http') ? web() : tcp();
server.listen({ port: 0, host: '0.0.0.0', backlog: 4096 }, () => {
  console.log('listening 0.0.0.0:' + server.address().port);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
