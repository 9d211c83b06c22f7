//! The parts of the benchmarks that have to be fast: the load, the servers that Tollgate is
//! compared with, and real tokens. `benches/*.py` start them, measure, and write
//! `docs/benchmarks.md`.

mod address;
mod bare;
mod drive;
mod grpc;
mod histogram;
mod http1;
mod keys;
mod message;
mod noop;
mod process;
mod rate_limits;
mod tokens;
mod verdict;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The fast parts of Tollgate's benchmarks.
#[derive(Debug, Parser)]
enum Command {
    /// Write a new key of each kind and `jwks.json` into a directory.
    Keys(keys::Keys),
    /// Sign tokens with such keys, one a line.
    Tokens(tokens::Mint),
    /// Serve the stock no-op, tonic with envoy-types, which allows everything.
    Noop(noop::Noop),
    /// Serve the stock rate limit service, which counts in Redis.
    RateLimits(rate_limits::RateLimits),
    /// Send checks as Envoy does, and print the measured values as one line of JSON.
    Check(grpc::Check),
    /// Send requests over HTTP/1.1, and print the measured values as one line of JSON.
    Http(http1::Http),
    /// Verify signatures and nothing else.
    Verify(bare::Verify),
    /// Run a script in Redis and nothing else.
    Evalsha(bare::Evalsha),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Keys(keys) => keys.run(),
        Command::Tokens(mint) => mint.run(),
        Command::Noop(noop) => noop.run(),
        Command::RateLimits(service) => service.run(),
        Command::Check(check) => check.run(),
        Command::Http(http) => http.run(),
        Command::Verify(verify) => verify.run(),
        Command::Evalsha(evalsha) => evalsha.run(),
    }
}
