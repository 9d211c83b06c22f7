//! The calls of one connection, answered together.
//!
//! Benchmark row: "Tollgate, public route" in `docs/benchmarks.md`. On one core a call is polled
//! by the task of its connection, and most calls end in that poll; the responses of all calls that
//! were read together leave in one write. The simple form is a task for each call, which is used on
//! several cores and costs 3 to 10 % more instructions (README.md). `tests/wire/grpc_calls.rs`
//! tests both.

use std::{
    panic::AssertUnwindSafe,
    task::{Context, Poll},
};

use futures_util::{
    future::{BoxFuture, CatchUnwind, FutureExt as _},
    stream::{FuturesUnordered, StreamExt as _},
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::JoinSet,
};

/// The answer to one call.
pub(crate) type Call = BoxFuture<'static, ()>;

/// The calls of one connection that are not answered yet. Dropping it drops the calls.
///
/// A call that panics is dropped, which resets its stream. The other calls are not affected.
pub(crate) enum OpenCalls {
    /// On a runtime of one thread: calls that did not end in their first poll.
    Inline(FuturesUnordered<CatchUnwind<AssertUnwindSafe<Call>>>),
    /// On a runtime of several threads: one task for each call. A proxy has a connection for each
    /// of its threads, and there may be fewer of those than cores.
    Spawned(JoinSet<()>),
}

impl OpenCalls {
    /// Returns an empty set, of the kind that fits the current runtime.
    pub(crate) fn new() -> Self {
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => Self::Inline(FuturesUnordered::new()),
            _ => Self::Spawned(JoinSet::new()),
        }
    }

    /// Adds `arrived` calls, polls all calls, and returns whether some ended.
    pub(crate) fn poll(
        &mut self,
        arrived: impl Iterator<Item = Call>,
        cx: &mut Context<'_>,
    ) -> bool {
        let mut ended = false;
        match self {
            Self::Inline(waiting) => {
                for call in arrived {
                    let mut call = AssertUnwindSafe(call).catch_unwind();
                    match call.poll_unpin(cx) {
                        Poll::Ready(_) => ended = true,
                        Poll::Pending => waiting.push(call),
                    }
                }
                while let Poll::Ready(Some(_)) = waiting.poll_next_unpin(cx) {
                    ended = true;
                }
            }
            Self::Spawned(tasks) => {
                for call in arrived {
                    tasks.spawn(call);
                }
                while let Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {
                    ended = true;
                }
            }
        }
        ended
    }
}
