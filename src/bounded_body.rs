//! Bodies of bounded size, in memory of about their size.
//!
//! A library's list of chunks has tens of bytes for each chunk, and each chunk keeps the buffer that
//! it arrived in: a peer that sends single bytes makes a body take seventy times its size.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt as _;
use thiserror::Error;

/// A whole body.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) bytes: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// The reason why there is no whole body.
#[derive(Debug, Error)]
pub(crate) enum BodyError<E> {
    /// The body is larger than the bound.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The body did not arrive.
    #[error(transparent)]
    Broken(E),
}

/// Reads a body of at most `max` bytes.
///
/// # Errors
/// See [`BodyError`]. The caller bounds the time.
pub(crate) async fn collect<B>(body: B, max: usize) -> Result<Collected, BodyError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max {
        return Err(BodyError::TooLarge(max));
    }
    let mut bytes = BytesMut::with_capacity(announced);
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(BodyError::Broken)?.into_data() {
            Ok(data) if data.remaining() > max - bytes.len() => {
                return Err(BodyError::TooLarge(max));
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Collected { bytes: bytes.freeze(), trailers })
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn chunks(
        chunks: &[&'static str],
        error: Option<std::io::Error>,
    ) -> impl Body<Data = Bytes, Error = std::io::Error> + use<> {
        let frames =
            chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes()))));
        let frames: Vec<_> = frames.chain(error.map(Err)).collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_bound() {
        let collected = collect(chunks(&["a", "", "bc", "d"], None), 4).await.unwrap();
        assert_eq!((&*collected.bytes, collected.trailers), (&b"abcd"[..], None));
        let larger = collect(chunks(&["ab", "cde"], None), 4).await;
        assert!(matches!(larger, Err(BodyError::TooLarge(4))));
        let announced = collect(Full::new(Bytes::from_static(b"abcde")), 4).await;
        assert!(matches!(announced, Err(BodyError::TooLarge(4))));
        let broken = collect(chunks(&["ab"], Some(std::io::Error::other("reset"))), 4).await;
        assert!(matches!(broken, Err(BodyError::Broken(_))));
    }

    #[tokio::test]
    async fn trailers_are_kept() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = chunks(&["a"], None).with_trailers(std::future::ready(Some(Ok(trailers))));
        let collected = collect(body, 4).await.unwrap();
        assert_eq!(collected.trailers.unwrap()["grpc-status"], "0");
    }
}
