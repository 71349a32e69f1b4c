// A web server and a client with 20 requests at a time, on node's event loop.
"use strict";
const http = require("http");

const host = process.env.HOST;
const port = Number(process.env.PORT);
const body = Buffer.alloc(200000, "j");

function serve() {
    const server = http.createServer((request, response) => {
        let length = 0;
        request.on("data", (part) => { length += part.length; });
        request.on("end", () => {
            response.setHeader("X-Length", String(length));
            response.end(body);
        });
    });
    server.listen(port, process.env.BIND);
}

function fetch(agent) {
    return new Promise((resolve, reject) => {
        const request = http.request({ host, port, agent, method: "POST", path: "/" }, (response) => {
            const parts = [];
            response.on("data", (part) => parts.push(part));
            response.on("end", () => {
                const good = Buffer.concat(parts).equals(body) && response.headers["x-length"] === "50000";
                resolve(good && response.statusCode === 200);
            });
            response.on("error", reject);
        });
        request.on("error", reject);
        request.end(Buffer.alloc(50000, "q"));
    });
}

async function connect() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 20 });
    const results = await Promise.all(Array.from({ length: 200 }, () => fetch(agent)));
    agent.destroy();
    const good = results.filter(Boolean).length;
    console.log(`${good} of ${results.length} requests were answered`);
    process.exit(good === results.length ? 0 : 1);
}

if (process.argv[2] === "serve") {
    serve();
} else {
    connect().catch((failure) => {
        console.log("FAIL", failure);
        process.exit(1);
    });
}
