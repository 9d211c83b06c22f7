//! A gRPC server on [`h2`]: unary calls without the streams, tasks and boxes of a general server,
//! and services that tonic generates beside them.
//!
//! The crate has four parts: [`serve_connection`] answers the calls of one HTTP/2 connection,
//! [`Services`] is the table from paths to handlers, [`UnaryMethod`] is a method with one request
//! message and one response message, and [`wire`] reads and writes protocol buffers in place.
//! `README.md` lists what it replaces and how its equivalence is tested.
//!
//! ```
//! use std::sync::Arc;
//!
//! use http::HeaderMap;
//! use tollgate_grpc_unary::{
//!     Activity, FramedMessage, Http2Limits, RequestBody, Services, Status, UnaryMethod,
//!     serve_connection,
//! };
//!
//! /// Sends each message back.
//! struct Echo;
//!
//! impl UnaryMethod for Echo {
//!     async fn call(
//!         &self,
//!         _: &HeaderMap,
//!         body: &mut RequestBody,
//!     ) -> Result<FramedMessage, Status> {
//!         let message = body.length_prefix().await?.message().await?;
//!         Ok(FramedMessage::from(&message[..]))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let services = Services::new().unary("/example.Echo/Echo", Echo);
//! let (client, server) = tokio::io::duplex(4096);
//! tokio::spawn(async move {
//!     let never = std::future::pending();
//!     let activity = Arc::new(Activity::default());
//!     serve_connection(server, &services, &Http2Limits::default(), &activity, never).await
//! });
//!
//! let (mut client, connection) = h2::client::handshake(client).await?;
//! tokio::spawn(connection);
//! let request = http::Request::post("http://echo/example.Echo/Echo").body(())?;
//! let (response, mut body) = client.send_request(request, false)?;
//! body.send_data(bytes::Bytes::from_static(b"\0\0\0\0\x02hi"), true)?;
//! let mut body = response.await?.into_body();
//! assert_eq!(body.data().await.unwrap()?, &b"\0\0\0\0\x02hi"[..]);
//! assert_eq!(body.trailers().await?.unwrap()["grpc-status"], "0");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod activity;
mod batch;
mod body;
mod coalesced;
mod connection;
mod framing;
mod gathered;
mod read_slices;
mod resets;
mod services;
mod streaming;
pub mod wire;
mod withheld;

pub use tonic::Status;

pub use self::{
    activity::{Activity, Answering},
    body::{LengthPrefix, RequestBody},
    coalesced::CoalescedWrites,
    connection::{ConnectionError, Http2Limits, serve_connection},
    framing::FramedMessage,
    read_slices::{ReadSlices, Slice},
    services::{GeneratedService, Services, UnaryMethod},
    withheld::{CountedPart, MissingPart, Withheld},
};
