//! `GET /v1/openapi.json`: the document of the API, in the format of OpenAPI 3.1. Every caller reads
//! it; `tollgate schema --admin-api` prints it.

use bytes::Bytes;
use http::{Method, Response, header::ALLOW};
use http_body_util::Full;

use super::record::AdminRecord;
use crate::json_api::{self, Refusal, json_text};

/// The path of the document.
pub(crate) const PATH: &str = "/v1/openapi.json";

/// The text of the document.
pub const DOCUMENT: &str = include_str!("../../docs/admin-api.openapi.json");

/// Handles a call of [`PATH`] that is authorized.
pub(super) fn call(
    method: &Method,
    record: &mut AdminRecord<'_>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    if *method != Method::GET {
        return Err(json_api::not_allowed("use GET").with(ALLOW, "GET"));
    }
    record.doing("read_openapi");
    Ok(json_text(Bytes::from_static(DOCUMENT.as_bytes())))
}
