use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tollgate_grpc_unary::{RequestBody, Status};
use tollgate_testkit::wait::until_async;
use tonic::body::Body;

use super::{CALL, ChargedBytes, InFlight, LimitError, MessageError, Refusal};

const MIB: u64 = 1 << 20;

/// Messages of at most 1.25 MiB; 3 MiB for them and 1 MiB, which is 32 calls, besides.
fn budget() -> InFlight {
    InFlight::new(MIB, 4 * MIB).unwrap()
}

/// A message of `length` bytes behind its prefix.
fn framed(length: u32) -> Bytes {
    let mut bytes: Vec<u8> = (0..5 + length).map(|at| at as u8).collect();
    bytes[0] = 0;
    bytes[1..5].copy_from_slice(&length.to_be_bytes());
    bytes.into()
}

/// A request body whose frames the test sends one by one.
fn body() -> (mpsc::Sender<Result<Frame<Bytes>, Status>>, Body) {
    let (frames, receiver) = mpsc::channel(1);
    (frames, Body::new(StreamBody::new(ReceiverStream::new(receiver))))
}

fn whole(message: Bytes) -> Body {
    Body::new(http_body_util::Full::new(message))
}

async fn read(budget: &InFlight, body: Body) -> Result<ChargedBytes, MessageError> {
    budget.read_message(&HeaderMap::new(), &mut RequestBody::new(body)).await
}

/// The result as text: the length that was read, the refusal, or the status of a failed call.
async fn result(budget: &InFlight, body: Body) -> String {
    match read(budget, body).await {
        Ok(charged) => charged.bytes().len().to_string(),
        Err(MessageError::Refused(Refusal::TooLarge)) => "too large".to_owned(),
        Err(MessageError::Refused(Refusal::NoRoom)) => "no room".to_owned(),
        Err(MessageError::Refused(Refusal::Late)) => "late".to_owned(),
        Err(MessageError::Failed(status)) => format!("{:?}", status.code()),
    }
}

/// Reads while the test sends.
fn reading(budget: &InFlight, body: Body) -> tokio::task::JoinHandle<String> {
    let budget = budget.clone();
    tokio::spawn(async move { result(&budget, body).await })
}

/// Waits until `budget` holds `expected` bytes.
async fn taken(budget: &InFlight, expected: u64) {
    until_async(&format!("{expected} bytes in flight"), async || {
        (budget.taken() as u64 == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn messages_up_to_the_limit_pass_whole() {
    let budget = budget();
    for length in [0, 1, CALL, CALL + 1, 1_310_720] {
        let message = framed(length);
        let charged = read(&budget, whole(message.clone())).await.unwrap();
        assert_eq!(charged.bytes(), &message[5..]);
        assert_eq!(charged.bytes().as_ptr(), message[5..].as_ptr(), "one frame is not copied");
        assert_eq!(budget.taken(), length.max(CALL) as usize);
        drop(charged);
        assert_eq!(budget.taken(), 0);
    }
    assert_eq!(budget.max_message(), 1_310_720);
}

#[tokio::test]
async fn a_message_in_pieces_is_joined() {
    let budget = budget();
    let (frames, body) = body();
    let call = tokio::spawn(async move { read(&budget, body).await.unwrap().bytes().clone() });
    let message = framed(40_000);
    for piece in
        [&message[..1], &message[1..1], &message[1..4], &message[4..20_000], &message[20_000..]]
    {
        frames.send(Ok(Frame::data(Bytes::copy_from_slice(piece)))).await.unwrap();
    }
    drop(frames);
    assert_eq!(call.await.unwrap(), message[5..]);
}

#[tokio::test]
async fn a_body_that_is_not_one_message_is_a_failed_call() {
    let rows: [(&str, &[u8], &str); 6] = [
        ("nothing", b"", "Internal"),
        ("a flag", b"\0", "Internal"),
        ("half a prefix", b"\0\0\0\0", "Internal"),
        ("half a message", b"\0\0\0\0\x02x", "Internal"),
        ("a compressed message", b"\x01\0\0\0\x01x", "Internal"),
        ("more than was announced", b"\0\0\0\0\x01xx", "InvalidArgument"),
    ];
    let budget = budget();
    for (name, bytes, code) in rows {
        assert_eq!(result(&budget, whole(Bytes::from_static(bytes))).await, code, "{name}");
        assert_eq!(budget.taken(), 0, "{name}");
    }
    for last in ["in the next frame", "after a message in two frames"] {
        let (frames, body) = body();
        let call = reading(&budget, body);
        let message = framed(10);
        let split = if last == "in the next frame" { message.len() } else { 8 };
        for piece in [&message[..split], &message[split..], b"x"] {
            // The reader may have ended already.
            let _ = frames.send(Ok(Frame::data(Bytes::copy_from_slice(piece)))).await;
        }
        assert_eq!(call.await.unwrap(), "InvalidArgument", "{last}");
    }
}

#[tokio::test]
async fn trailers_end_a_message() {
    let budget = budget();
    let (frames, body) = body();
    let call = reading(&budget, body);
    frames.send(Ok(Frame::data(framed(10)))).await.unwrap();
    frames.send(Ok(Frame::trailers(http::HeaderMap::new()))).await.unwrap();
    assert_eq!(call.await.unwrap(), "10");
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_by_its_prefix_alone() {
    for length in [1_310_721_u32, u32::MAX] {
        let budget = budget();
        let (frames, body) = body();
        frames.send(Ok(Frame::data(framed(0).slice(..1)))).await.unwrap();
        let call = reading(&budget, body);
        frames.send(Ok(Frame::data(Bytes::copy_from_slice(&length.to_be_bytes())))).await.unwrap();
        assert_eq!(call.await.unwrap(), "too large");
        assert!(frames.is_closed(), "nothing more is read");
        assert_eq!(budget.taken(), 0);
    }
}

#[tokio::test]
async fn the_sum_is_bounded_and_small_calls_have_a_separate_part() {
    let budget = budget();
    let message = |length| read(&budget, whole(framed(length)));

    let large = [message(MIB as u32).await, message(MIB as u32).await, message(MIB as u32).await];
    assert!(large.iter().all(Result::is_ok));
    assert_eq!(budget.taken() as u64, 3 * MIB);
    assert_eq!(result(&budget, whole(framed(192 << 10))).await, "no room");

    let mut small = Vec::new();
    for _ in 3..32 {
        small.push(message(CALL).await.unwrap());
    }
    assert_eq!(budget.taken() as u64, 4 * MIB - 3 * u64::from(CALL));
    assert_eq!(result(&budget, whole(framed(0))).await, "no room", "32 calls are the most");

    drop((large, small));
    assert_eq!(budget.taken(), 0);
    assert_eq!(result(&budget, whole(framed(MIB as u32))).await, MIB.to_string());
}

#[tokio::test]
async fn a_message_that_does_not_arrive_ends_and_frees_its_bytes() {
    let message = framed(MIB as u32);
    let budget = budget().with_arrival(Duration::from_millis(50));

    let (silent, none) = body();
    assert_eq!(result(&budget, none).await, "late", "no prefix");
    drop(silent);

    let (stalled, part) = body();
    stalled.send(Ok(Frame::data(message.slice(..1000)))).await.unwrap();
    let call = reading(&budget, part);
    taken(&budget, MIB).await;
    assert_eq!(call.await.unwrap(), "late", "a part of it");
    assert_eq!(budget.taken(), 0);

    let (endless, all) = body();
    endless.send(Ok(Frame::data(framed(0)))).await.unwrap();
    assert_eq!(result(&budget, all).await, "late", "all of it, but no end");
}

#[tokio::test]
async fn a_cancelled_call_returns_its_bytes() {
    let budget = budget();
    let (frames, body) = body();
    frames.send(Ok(Frame::data(framed(MIB as u32).slice(..1000)))).await.unwrap();
    let call = reading(&budget, body);
    taken(&budget, MIB).await;
    call.abort();
    taken(&budget, 0).await;
}

#[tokio::test]
async fn a_broken_stream_is_a_failed_call() {
    let (frames, body) = body();
    frames.send(Err(Status::data_loss("gone"))).await.unwrap();
    assert_eq!(result(&budget(), body).await, "DataLoss");
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let new = |body, sum| InFlight::new(body, sum).map(drop);
    let least = 22_719_146;
    assert_eq!(new(16 * MIB, least), Ok(()));
    assert_eq!(
        new(16 * MIB, least - 1),
        Err(LimitError::TooLittle { max_in_flight: least - 1, max_body: 16 * MIB, least })
    );
    assert_eq!(new(4096 * MIB, 8192 * MIB), Err(LimitError::TooMuch("body.max")));
    assert_eq!(new(u64::MAX, u64::MAX), Err(LimitError::TooMuch("body.max")));
    assert_eq!(new(MIB, 4096 * MIB), Err(LimitError::TooMuch("body.max_in_flight")));
}
