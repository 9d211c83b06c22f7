//! The response to a request that was forwarded: its headers, and the usage that it reports.

use std::cell::RefCell;

use tollgate::adapter::response_meter::{ResponseEnd, ResponseMeter};
use tollgate_core::decision::answer::HeaderList;

use crate::{
    effect::{Allow, write_response},
    host::{BodyPart, HeaderMap, Number, Stream, Text},
    shell::Shell,
};

/// The response to one request.
#[derive(Debug, Default)]
pub(crate) struct Response {
    headers: RefCell<Option<HeaderList>>,
    meter: RefCell<Option<ResponseMeter>>,
}

impl Response {
    /// Expects the response to a request that is forwarded.
    pub(crate) fn expect(&self, shell: &Shell, allow: Allow) {
        if let (Some(reservation), Some(settler)) = (&allow.reservation, shell.settler()) {
            let asks = allow.asks_continuous_usage();
            let meter = ResponseMeter::start(settler, reservation, asks, shell.runtime());
            *self.meter.borrow_mut() = meter;
        }
        *self.headers.borrow_mut() = Some(allow.response);
    }

    /// Writes the headers of the decision, and reads those of the upstream.
    pub(crate) fn on_headers(&self, stream: &mut Stream) {
        if let Some(meter) = self.meter.borrow_mut().as_mut() {
            let headers = stream.headers(HeaderMap::Response);
            let first = |name: &[u8]| {
                let mut values = headers.iter().filter(|(header, _)| *header == name);
                values.next().map(|(_, value)| value)
            };
            let encoding = first(b"content-encoding").unwrap_or_default();
            let is_encoded = !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity");
            meter.on_headers(first(b"content-type").unwrap_or_default(), is_encoded);
        }
        let headers = self.headers.borrow_mut().take();
        if let Some(headers) = headers {
            write_response(stream, &headers);
        }
    }

    /// Reads a piece of the body.
    pub(crate) fn on_body(&self, stream: &Stream) {
        if let Some(meter) = self.meter.borrow_mut().as_mut() {
            stream.body_pieces(BodyPart::ReceivedResponse).iter().for_each(|piece| {
                meter.on_body(piece);
            });
        }
    }

    /// Settles the request by the end that Envoy reports.
    pub(crate) fn on_complete(&self, stream: &Stream) {
        let Some(meter) = self.meter.borrow_mut().take() else { return };
        let status = stream.number(Number::ResponseStatus).unwrap_or(0);
        meter.end(&ResponseEnd {
            status: u32::try_from(status).unwrap_or(0),
            details: stream.text(Text::ResponseDetails).unwrap_or_default(),
            flags: stream.number(Number::ResponseFlags).unwrap_or(0),
            // Without a count, the request may have reached an upstream.
            attempts: stream.number(Number::UpstreamAttempts).unwrap_or(u64::MAX),
        });
    }

    /// Settles a request whose end was not reported, as one that was cut.
    pub(crate) fn on_destroy(&self) {
        self.meter.borrow_mut().take();
    }
}
