//! One request on its way through the filter.

use std::{
    cell::{Cell, RefCell},
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::Arc,
};

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tollgate::engine::check::{CheckAnswer, INLINE, LargeRequest as _, PassedHead};
use tollgate_core::{
    denial::{Denial, Reason},
    request::RawBody,
    time::Span,
};

use crate::{
    document::{is_unchanged, with_members},
    effect::{Allow, Effect},
    host::{BodyPart, HeaderMap, Stream},
    request::{HeadView as _, LentHead, NoHead, OwnedRequest},
    response::Response,
    shell::Shell,
    waiter::Waiter,
};

/// The bytes beyond a body of the largest size that may be buffered: what is written into it.
const WRITTEN: u64 = 64 << 10;

/// The state of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its head has not arrived.
    New,
    /// Its body is buffered.
    Buffering,
    /// A check on another thread decides it.
    Waiting,
    /// The request is forwarded.
    Allowed,
    /// The request is answered.
    Answered,
}

/// What follows from a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The request goes on.
    Continue,
    /// The body is needed first.
    NeedsBody,
    /// The decision comes later, by [`Filter::on_scheduled`].
    Waits,
    /// The request is answered.
    Answered,
}

/// One request. Envoy calls it on one thread, and may call it while it calls Envoy: what it keeps
/// is taken out before such a call.
#[derive(Debug)]
pub struct Filter {
    shell: Arc<Shell>,
    phase: Cell<Phase>,
    /// The bytes of the body that are held in the budget.
    held: Cell<usize>,
    waiting: RefCell<Option<(Arc<Waiter>, JoinHandle<()>)>>,
    response: Response,
}

impl Filter {
    /// Creates the filter of a request.
    pub fn new(shell: Arc<Shell>) -> Rc<Self> {
        Rc::new(Self {
            shell,
            phase: Cell::new(Phase::New),
            held: Cell::new(0),
            waiting: RefCell::default(),
            response: Response::default(),
        })
    }

    /// Decides on the head of the request where that is enough. `is_end`: it has no body.
    pub fn on_request_headers(&self, stream: &mut Stream, is_end: bool) -> Progress {
        let decided = {
            let head = LentHead::of(stream);
            if is_end {
                self.check(&head, RawBody::None)
            } else if head.is_upgrade() {
                self.check(&head, head.unread_body())
            } else {
                match self.check_head(&head) {
                    Some(checked) => checked,
                    None => {
                        stream.raise_buffer_limit(self.shell.max_body() as u64 + WRITTEN);
                        self.phase.set(Phase::Buffering);
                        return Progress::NeedsBody;
                    }
                }
            }
        };
        self.proceed(stream, decided, BodyPart::BufferedRequest)
    }

    /// Checks the head of a request with a body; `None` where the body is needed.
    fn check_head(&self, head: &LentHead<'_>) -> Option<Checked> {
        let checker = self.shell.checker();
        let mut passed = None;
        let encode = |answered: CheckAnswer<'_>| Some(Effect::of(&answered, head));
        let denied = checker.check_head(
            None,
            || head.request(RawBody::None),
            encode,
            |head| {
                passed = Some(head);
                None
            },
        );
        if let Some(effect) = denied {
            return Some(Checked::Decided(effect));
        }
        match passed {
            Some(PassedHead::NeedsBody) if head.is_grpc() => {
                Some(self.check(head, RawBody::Unavailable))
            }
            Some(PassedHead::NeedsBody) => {
                let is_too_large =
                    head.content_length().is_some_and(|size| size > self.shell.max_body() as u64);
                is_too_large.then(|| Checked::Decided(self.refuse(head, too_large())))
            }
            Some(PassedHead::Complete) | None => Some(self.check(head, RawBody::None)),
        }
    }

    /// Takes a piece of the body, and decides when it is the last one.
    pub fn on_request_body(&self, stream: &mut Stream, is_end: bool) -> Progress {
        match self.phase.get() {
            Phase::Buffering => {}
            Phase::Waiting => return Progress::Waits,
            Phase::Allowed => return Progress::Continue,
            // Without a decision about its head no body goes on.
            Phase::New | Phase::Answered => return Progress::Answered,
        }
        // With the last piece, Envoy has moved all of the body to the buffer if it had a part of it.
        let buffered = stream.body_size(BodyPart::BufferedRequest);
        let received = stream.body_size(BodyPart::ReceivedRequest);
        let part = match buffered {
            0 => BodyPart::ReceivedRequest,
            _ => BodyPart::BufferedRequest,
        };
        let size = if is_end { buffered.max(received) } else { buffered + received };
        let refusal = if size > self.shell.max_body() {
            Some(too_large())
        } else if self.hold(size) {
            None
        } else {
            Some(no_room())
        };
        if let Some(denial) = refusal {
            let effect = self.refuse(&LentHead::of(stream), denial);
            return self.proceed(stream, Checked::Decided(effect), part);
        }
        if is_end { self.check_body(stream, part) } else { Progress::NeedsBody }
    }

    /// Decides when the body has ended with trailers.
    pub fn on_request_trailers(&self, stream: &mut Stream) -> Progress {
        match self.phase.get() {
            Phase::Buffering => self.check_body(stream, BodyPart::BufferedRequest),
            Phase::Waiting => Progress::Waits,
            Phase::Allowed => Progress::Continue,
            Phase::New | Phase::Answered => Progress::Answered,
        }
    }

    fn check_body(&self, stream: &mut Stream, part: BodyPart) -> Progress {
        let checked = {
            let head = LentHead::of(stream);
            let body = stream.body_pieces(part).whole();
            let body = if body.is_empty() { RawBody::None } else { RawBody::Whole(&body) };
            self.check(&head, body)
        };
        self.proceed(stream, checked, part)
    }

    /// Checks a whole request: here where nothing is waited for, otherwise on another thread.
    fn check(&self, head: &LentHead<'_>, body: RawBody<'_>) -> Checked {
        let checker = self.shell.checker();
        let is_large = matches!(body, RawBody::Whole(bytes) if bytes.len() > INLINE);
        if is_large || checker.may_wait() {
            return Checked::Elsewhere(Box::new(OwnedRequest::of(head, body)));
        }
        let encode = |answered: CheckAnswer<'_>| Effect::of(&answered, head);
        let check = checker.check(None, || head.request(body), encode);
        // A store in memory answers at once.
        let effect = check.now_or_never().unwrap_or_else(|| self.refuse(head, unexpected()));
        Checked::Decided(effect)
    }

    /// The effect of a denial that is not the core's, which is recorded.
    fn refuse(&self, head: &LentHead<'_>, denial: Denial) -> Effect {
        let encode = |answered: CheckAnswer<'_>| Effect::of(&answered, head);
        self.shell.checker().refuse_request(|| head.request(RawBody::None), denial, encode)
    }

    /// Carries out what a check came to. `part` is where the body is.
    fn proceed(&self, stream: &mut Stream, checked: Checked, part: BodyPart) -> Progress {
        let effect = match checked {
            Checked::Decided(effect) => effect,
            Checked::Elsewhere(request) => match self.start(stream, *request) {
                Some(effect) => effect,
                None => {
                    self.phase.set(Phase::Waiting);
                    return Progress::Waits;
                }
            },
        };
        self.carry_out(stream, effect, part)
    }

    /// Starts a check on the runtime. Returns its effect where it did not wait.
    fn start(&self, stream: &mut Stream, request: OwnedRequest) -> Option<Effect> {
        let (checker, request) = (Arc::clone(self.shell.checker()), Arc::new(request));
        let mut check = Box::pin(async move {
            let encode = |answered: CheckAnswer<'_>| Effect::of(&answered, &&*request);
            if request.body_size() > INLINE {
                checker.check_large(None, &request, encode).await
            } else {
                checker.check(None, || request.read(), encode).await
            }
        });
        let _context = self.shell.runtime().enter();
        if let Some(effect) = check.as_mut().now_or_never() {
            return Some(effect);
        }
        let Some(scheduler) = stream.scheduler() else {
            drop(check);
            return Some(self.refuse(&LentHead::of(stream), unexpected()));
        };
        let waiter = Waiter::new(scheduler);
        let (place, checker) = (Arc::clone(&waiter), Arc::clone(self.shell.checker()));
        let task = self.shell.runtime().spawn(async move {
            // Without an effect the request would wait for ever.
            let effect = AssertUnwindSafe(check).catch_unwind().await.unwrap_or_else(|_| {
                checker.refuse(unexpected(), |answered| Effect::of(&answered, &NoHead))
            });
            if let Err(unused) = place.deliver(effect)
                && let Some(reservation) = unused.reservation()
            {
                checker.release(reservation);
            }
        });
        *self.waiting.borrow_mut() = Some((waiter, task));
        None
    }

    /// Carries out the effect of a check on another thread. Afterwards the stream may have ended.
    pub fn on_scheduled(&self, stream: &mut Stream) {
        let waiting = self.waiting.borrow_mut().take();
        let effect = waiting.and_then(|(waiter, _)| waiter.take());
        let Some(effect) = effect.filter(|_| self.phase.get() == Phase::Waiting) else { return };
        if self.carry_out(stream, effect, BodyPart::BufferedRequest) == Progress::Continue {
            stream.continue_request();
        }
    }

    fn carry_out(&self, stream: &mut Stream, effect: Effect, part: BodyPart) -> Progress {
        self.release_body();
        let effect = match effect {
            Effect::Allow(allow) if !write_body(stream, &allow, part) => {
                self.release(allow.reservation.as_deref());
                self.refuse(&LentHead::of(stream), unwritten())
            }
            effect => effect,
        };
        match effect {
            Effect::Allow(allow) => {
                self.phase.set(Phase::Allowed);
                allow.apply(stream);
                self.response.expect(&self.shell, *allow);
                Progress::Continue
            }
            Effect::Deny(reply) => {
                self.phase.set(Phase::Answered);
                reply.send(stream);
                Progress::Answered
            }
        }
    }

    /// Writes the headers of the decision into those of the response.
    pub fn on_response_headers(&self, stream: &mut Stream) {
        self.response.on_headers(stream);
    }

    /// Reads a piece of the response's body.
    pub fn on_response_body(&self, stream: &Stream) {
        self.response.on_body(stream);
    }

    /// Settles the request, when it and its response have ended.
    pub fn on_complete(&self, stream: &Stream) {
        self.response.on_complete(stream);
    }

    /// Answers a request whose hook panicked with 503, if it has no answer yet.
    pub fn on_panic(&self, stream: &mut Stream) {
        if matches!(self.phase.get(), Phase::Allowed | Phase::Answered) {
            return;
        }
        let denial = Denial::new(Reason::Internal, "a panic inside the Envoy module");
        let effect = self.refuse(&LentHead::of(stream), denial);
        self.carry_out(stream, effect, BodyPart::BufferedRequest);
    }

    /// Ends the request: a check that is still running is cancelled.
    pub fn on_destroy(&self) {
        self.release_body();
        self.response.on_destroy();
        let Some((waiter, task)) = self.waiting.borrow_mut().take() else { return };
        let unused = waiter.leave();
        task.abort();
        self.release(unused.as_ref().and_then(Effect::reservation));
    }

    /// Releases the reservation of a request that is not forwarded.
    fn release(&self, reservation: Option<&str>) {
        if let Some(reservation) = reservation {
            let _context = self.shell.runtime().enter();
            self.shell.checker().release(reservation);
        }
    }

    /// Holds `size` bytes of the body in the budget. Returns whether there is room.
    fn hold(&self, size: usize) -> bool {
        let more = size.saturating_sub(self.held.get());
        let has_room = self.shell.hold_body(more);
        if has_room {
            self.held.set(self.held.get() + more);
        }
        has_room
    }

    fn release_body(&self) {
        self.shell.release_body(self.held.take());
    }
}

/// What a check came to, or where it goes on.
enum Checked {
    Decided(Effect),
    Elsewhere(Box<OwnedRequest>),
}

/// Writes into the body what bounds its answer and asks for its usage. Returns whether the body has it
/// then.
fn write_body(stream: &mut Stream, allow: &Allow, part: BodyPart) -> bool {
    let Some(changes) = allow.changes.as_ref().filter(|changes| !is_unchanged(changes)) else {
        return true;
    };
    let written = with_members(&stream.body_pieces(part).whole(), changes);
    let Some(written) = written else { return false };
    if !stream.replace_body(part, &written) {
        return false;
    }
    if LentHead::of(stream).content_length().is_some() {
        let length = written.len().to_string();
        stream.set_header(HeaderMap::Request, b"content-length", length.as_bytes());
    }
    true
}

fn unwritten() -> Denial {
    Denial::new(Reason::Internal, "the bound of the answer cannot be written into the body")
}

fn too_large() -> Denial {
    Denial::new(Reason::BodyTooLarge, "the body is larger than body.max")
}

fn no_room() -> Denial {
    Denial::new(Reason::Overloaded, "body.max_in_flight is used up")
        .with_retry_after(Span::from_secs(1))
}

fn unexpected() -> Denial {
    Denial::new(Reason::Internal, "a check waits where nothing is waited for")
}
