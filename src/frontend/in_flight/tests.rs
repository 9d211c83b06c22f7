use std::convert::Infallible;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use super::{Bounded, CALL, InFlight, LimitError, Message, Refusal};

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

/// Messages of at most 1.25 MiB; 3 MiB for them and 1 MiB, which is 32 calls, besides.
fn budget() -> InFlight {
    InFlight::new(MIB, 4 * MIB, |refusal| match refusal {
        Refusal::TooLarge => Bytes::from_static(b"too large"),
        Refusal::NoRoom => Bytes::from_static(b"no room"),
    })
    .unwrap()
}

/// A message of `length` bytes behind its prefix.
fn framed(length: u32) -> Bytes {
    let mut bytes = vec![0; 5 + length as usize];
    bytes[1..5].copy_from_slice(&length.to_be_bytes());
    bytes.into()
}

/// A request body whose frames the test sends one by one.
fn body() -> (mpsc::Sender<Result<Frame<Bytes>, Status>>, Request<Body>) {
    let (frames, receiver) = mpsc::channel(1);
    let body = Body::new(StreamBody::new(ReceiverStream::new(receiver)));
    (frames, Request::new(body))
}

fn whole(message: Bytes) -> Request<Body> {
    Request::new(Body::new(http_body_util::Full::new(message)))
}

/// A server that answers with the number of bytes it read, or with the status that reading gave.
fn counting(budget: &InFlight) -> Bounded<impl Server> {
    budget.guard(tower::service_fn(|request: Request<Message>| async {
        let text = match request.into_body().collect().await {
            Ok(body) => body.to_bytes().len().to_string(),
            Err(status) => format!("{:?}", status.code()),
        };
        Ok(Response::new(Body::new(http_body_util::Full::from(text))))
    }))
}

/// A server that never answers.
fn stuck(budget: &InFlight) -> Bounded<impl Server> {
    budget.guard(tower::service_fn(|_: Request<Message>| std::future::pending()))
}

trait Server:
    tower_service::Service<Request<Message>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}
impl<S> Server for S where
    S: tower_service::Service<Request<Message>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

async fn text(response: Result<Response<Body>, Infallible>) -> String {
    let body = response.unwrap().into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// The message of a refusal, after checking that gRPC sees a success.
async fn refusal(response: Result<Response<Body>, Infallible>) -> String {
    let response = response.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    let mut bytes = collected.to_bytes();
    assert_eq!(bytes.get_u8(), 0, "not compressed");
    assert_eq!(bytes.get_u32() as usize, bytes.len());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn code(response: Result<Response<Body>, Infallible>) -> Code {
    Status::from_header_map(response.unwrap().headers()).unwrap().code()
}

/// Waits until `budget` holds `expected` bytes.
async fn taken(budget: &InFlight, expected: u64) {
    let reached = async {
        while budget.taken() as u64 != expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let reached = timeout(SOON, reached).await;
    assert!(reached.is_ok(), "{} bytes are taken, not {expected}", budget.taken());
}

#[tokio::test]
async fn messages_up_to_the_limit_pass_whole() {
    let budget = budget();
    for length in [0, 1, CALL, CALL + 1, 1_310_720] {
        let response = counting(&budget).oneshot(whole(framed(length))).await;
        assert_eq!(text(response).await, (length + 5).to_string());
        assert_eq!(budget.taken(), 0);
    }
    assert_eq!(budget.max_message(), 1_310_720);
}

#[tokio::test]
async fn a_prefix_in_pieces_is_a_prefix() {
    let (frames, request) = body();
    let call = tokio::spawn(counting(&budget()).oneshot(request));
    let message = framed(40_000);
    for piece in [&message[..1], &message[1..1], &message[1..4], &message[4..20_000], &message[20_000..]] {
        frames.send(Ok(Frame::data(Bytes::copy_from_slice(piece)))).await.unwrap();
    }
    drop(frames);
    assert_eq!(text(call.await.unwrap()).await, "40005");
}

#[tokio::test]
async fn a_body_without_a_message_is_left_to_the_server() {
    for short in [&b""[..], b"\0", b"\0\0\0\0"] {
        let response = counting(&budget()).oneshot(whole(Bytes::from_static(short))).await;
        assert_eq!(text(response).await, short.len().to_string());
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_by_its_prefix_alone() {
    for length in [1_310_721_u32, u32::MAX] {
        let budget = budget();
        let (frames, request) = body();
        frames.send(Ok(Frame::data(framed(0).slice(..1)))).await.unwrap();
        let call = tokio::spawn(stuck(&budget).oneshot(request));
        frames.send(Ok(Frame::data(Bytes::copy_from_slice(&length.to_be_bytes())))).await.unwrap();
        assert_eq!(refusal(call.await.unwrap()).await, "too large");
        assert_eq!(budget.taken(), 0);
    }
}

#[tokio::test]
async fn the_sum_is_bounded_and_small_calls_have_a_part_of_their_own() {
    let budget = budget();
    let start = |length| tokio::spawn(stuck(&budget).oneshot(whole(framed(length))));

    let large = [start(MIB as u32), start(MIB as u32), start(MIB as u32)];
    taken(&budget, 3 * MIB).await;
    let response = stuck(&budget).oneshot(whole(framed(192 << 10))).await;
    assert_eq!(refusal(response).await, "no room");

    let small: Vec<_> = (3..32).map(|_| start(CALL)).collect();
    taken(&budget, 4 * MIB - 3 * u64::from(CALL)).await;
    let response = stuck(&budget).oneshot(whole(framed(0))).await;
    assert_eq!(refusal(response).await, "no room", "32 calls are the most");

    // A call that is cancelled gives back what it had.
    for call in large.iter().chain(&small) {
        call.abort();
    }
    taken(&budget, 0).await;
    let response = counting(&budget).oneshot(whole(framed(MIB as u32))).await;
    assert_eq!(text(response).await, (MIB + 5).to_string());
}

#[tokio::test]
async fn the_bytes_are_held_until_the_server_has_answered() {
    let budget = budget();
    let (answer, answered) = oneshot::channel::<()>();
    let answered = futures_util::FutureExt::shared(answered);
    let server = budget.guard(tower::service_fn(move |request: Request<Message>| {
        let answered = answered.clone();
        async {
            drop(request.into_body().collect().await);
            let _ = answered.await;
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    }));
    let call = tokio::spawn(server.oneshot(whole(framed(MIB as u32))));
    taken(&budget, MIB).await;
    answer.send(()).unwrap();
    call.await.unwrap().unwrap();
    assert_eq!(budget.taken(), 0);
}

#[tokio::test]
async fn more_than_announced_is_an_error() {
    let message = framed(10);
    let rows = [
        ("in the same frame", vec![[&message[..], b"x"].concat()]),
        ("in the next frame", vec![message.to_vec(), b"x".to_vec()]),
    ];
    for (name, pieces) in rows {
        let (frames, request) = body();
        let call = tokio::spawn(counting(&budget()).oneshot(request));
        for piece in pieces {
            frames.send(Ok(Frame::data(piece.into()))).await.unwrap();
        }
        assert_eq!(text(call.await.unwrap()).await, "InvalidArgument", "{name}");
    }
}

#[tokio::test]
async fn a_message_that_does_not_arrive_ends_and_frees_its_bytes() {
    let message = framed(MIB as u32);
    let budget = budget().with_arrival(Duration::from_millis(50));

    let (silent, request) = body();
    assert_eq!(code(counting(&budget).oneshot(request).await), Code::DeadlineExceeded, "no prefix");
    drop(silent);

    let (stalled, request) = body();
    stalled.send(Ok(Frame::data(message.slice(..1000)))).await.unwrap();
    let call = tokio::spawn(counting(&budget).oneshot(request));
    taken(&budget, MIB).await;
    assert_eq!(text(call.await.unwrap()).await, "DeadlineExceeded", "a part of it");
    assert_eq!(budget.taken(), 0);

    let (endless, request) = body();
    endless.send(Ok(Frame::data(framed(0)))).await.unwrap();
    let response = counting(&budget).oneshot(request).await;
    assert_eq!(text(response).await, "DeadlineExceeded", "all of it, but no end");
}

#[tokio::test]
async fn a_broken_stream_is_a_failed_call() {
    let (frames, request) = body();
    frames.send(Err(Status::data_loss("gone"))).await.unwrap();
    assert_eq!(code(counting(&budget()).oneshot(request).await), Code::DataLoss);
}

#[tokio::test]
async fn a_refused_message_is_not_read_on() {
    let (frames, request) = body();
    let announced = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]);
    frames.send(Ok(Frame::data(announced))).await.unwrap();
    assert_eq!(refusal(stuck(&budget()).oneshot(request).await).await, "too large");
    assert!(frames.is_closed());
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let new = |body, sum| InFlight::new(body, sum, |_| Bytes::new()).map(drop);
    let least = 22_719_146;
    assert_eq!(new(16 * MIB, least), Ok(()));
    assert_eq!(new(16 * MIB, least - 1), Err(LimitError::TooLittle { max_in_flight: least - 1, max_body: 16 * MIB, least }));
    assert_eq!(new(4096 * MIB, 8192 * MIB), Err(LimitError::TooMuch("body.max")));
    assert_eq!(new(u64::MAX, u64::MAX), Err(LimitError::TooMuch("body.max")));
    assert_eq!(new(MIB, 4096 * MIB), Err(LimitError::TooMuch("body.max_in_flight")));
}
