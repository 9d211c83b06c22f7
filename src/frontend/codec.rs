//! Checks on the wire: bytes in, bytes out. What is read of a message is read where it lies, by
//! [`Question::read`](super::envoy::Question::read).

use bytes::{Buf as _, BufMut as _};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::envoy::{Question, Reply};

/// A reply takes a few hundred bytes, and room for one is made per call. tonic's own choice is 8 KiB each way.
const ROOM: usize = 1 << 10;

/// The codec of the `Authorization` service, named in `build.rs`. It never fails: an error here would be a failed check, and a
/// proxy with `failure_mode_allow` lets those pass, so a client must not be able to cause one with what it sends.
#[derive(Debug, Default)]
pub struct CheckCodec;

impl Codec for CheckCodec {
    type Encode = Reply;
    type Decode = Question;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Decoder for CheckCodec {
    type Item = Question;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Question>, Status> {
        // tonic has the whole message in one piece: this neither copies nor allocates.
        Ok(Some(Question(buf.copy_to_bytes(buf.remaining()))))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ROOM, 32 << 10)
    }
}

impl Encoder for CheckCodec {
    type Item = Reply;
    type Error = Status;

    fn encode(&mut self, Reply(bytes): Reply, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(bytes);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ROOM, 32 << 10)
    }
}
