//! The forms in which proxies report a client's certificate.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use schemars::JsonSchema;
use serde::Deserialize;
use thiserror::Error;

/// Base64 (RFC 4648 section 4), with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// The form of a certificate in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Envoy's `x-forwarded-client-cert`, of which the value `Cert` of the last element is read.
    Xfcc,
    /// PEM, percent-encoded or not: nginx's `$ssl_client_escaped_cert`.
    Pem,
    /// The base64 of the DER form, of several ones the first: HAProxy's `ssl_c_der,base64`, Caddy,
    /// Traefik.
    Base64,
    /// The byte sequence of the header `Client-Cert` (RFC 9440).
    Rfc9440,
}

/// The reason why a text is no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodingError {
    /// The percent-encoding is broken.
    #[error("its percent-encoding is broken")]
    Percent,
    /// The text is not one block of PEM.
    #[error("it is not one PEM block `CERTIFICATE`")]
    Pem,
    /// The text is not base64.
    #[error("it is not base64")]
    Base64,
    /// The text is not a byte sequence of a structured field.
    #[error("it is not base64 between two colons")]
    ByteSequence,
    /// The header has no certificate in its last element.
    #[error("the last element of the header has no `Cert`, or is not well-formed")]
    Xfcc,
}

/// Returns the DER form of a certificate.
///
/// # Errors
/// The text has another form.
pub(super) fn decode(text: &[u8], encoding: Encoding) -> Result<Vec<u8>, EncodingError> {
    match encoding {
        Encoding::Xfcc => pem(&percent_decoded(last_certificate(text)?)?),
        Encoding::Pem => pem(&percent_decoded(text)?),
        Encoding::Base64 => {
            let first = text.split(|byte| *byte == b',').next().unwrap_or_default();
            base64(&percent_decoded(first)?)
        }
        Encoding::Rfc9440 => {
            let inner = text.strip_prefix(b":").and_then(|text| text.strip_suffix(b":"));
            base64(inner.ok_or(EncodingError::ByteSequence)?)
        }
    }
}

fn base64(text: &[u8]) -> Result<Vec<u8>, EncodingError> {
    BASE64.decode(text.trim_ascii()).map_err(|_| EncodingError::Base64)
}

/// Reads a text of exactly one block.
fn pem(text: &[u8]) -> Result<Vec<u8>, EncodingError> {
    let text = text.trim_ascii();
    let inner = text.strip_prefix(BEGIN).and_then(|text| text.strip_suffix(END));
    let inner = inner.filter(|inner| !inner.contains(&b'-')).ok_or(EncodingError::Pem)?;
    let digits: Vec<u8> =
        inner.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(digits).map_err(|_| EncodingError::Pem)
}

fn percent_decoded(text: &[u8]) -> Result<Vec<u8>, EncodingError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or(EncodingError::Percent)?;
        let digits = std::str::from_utf8(digits).map_err(|_| EncodingError::Percent)?;
        // `from_str_radix` would accept a sign.
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let value = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex);
        decoded.push(value.ok_or(EncodingError::Percent)?);
        rest = tail;
    }
    Ok(decoded)
}

/// Returns the value `Cert` of the last element of `x-forwarded-client-cert`.
///
/// Elements are separated by commas and values by semicolons, both of which may be in quotes. Only
/// the last element is that of the nearest proxy: a client can have sent those before it.
fn last_certificate(text: &[u8]) -> Result<&[u8], EncodingError> {
    let last = split_outside_quotes(text, b',')?.pop().unwrap_or_default();
    let mut found = None;
    for pair in split_outside_quotes(last, b';')? {
        let at = pair.iter().position(|byte| *byte == b'=').ok_or(EncodingError::Xfcc)?;
        let (key, value) = pair.split_at(at);
        if !key.trim_ascii().eq_ignore_ascii_case(b"cert") {
            continue;
        }
        let value = value.get(1..).unwrap_or_default();
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        // A second one would leave it open which of them is meant.
        if found.replace(quoted.unwrap_or(value)).is_some() {
            return Err(EncodingError::Xfcc);
        }
    }
    found.ok_or(EncodingError::Xfcc)
}

/// Splits a text at a separator that is not in quotes; `\` takes the meaning of a quote within them.
fn split_outside_quotes(text: &[u8], separator: u8) -> Result<Vec<&[u8]>, EncodingError> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            byte if *byte == separator && !is_quoted => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    if is_quoted {
        return Err(EncodingError::Xfcc);
    }
    parts.push(text.get(start..).unwrap_or_default());
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let pem = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        let escaped = pem.replace('\n', "%0A").replace(' ', "%20");
        let other = escaped.replace("AQID", "BAUG");
        for (text, encoding) in [
            (pem.to_owned(), Encoding::Pem),
            (escaped.clone(), Encoding::Pem),
            ("AQID".to_owned(), Encoding::Base64),
            ("AQID,BAUG".to_owned(), Encoding::Base64),
            (":AQID:".to_owned(), Encoding::Rfc9440),
            (format!("Hash=1;Cert=\"{escaped}\";URI=spiffe://a/b"), Encoding::Xfcc),
            (format!("cert={escaped}"), Encoding::Xfcc),
            (format!("By=x;Cert=\"{other}\",Hash=1;Cert=\"{escaped}\""), Encoding::Xfcc),
            (format!("Subject=\"CN=a,Cert={other}\\\"\";Cert=\"{escaped}\""), Encoding::Xfcc),
        ] {
            assert_eq!(decode(text.as_bytes(), encoding), Ok(vec![1, 2, 3]), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let pem = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----";
        for (text, encoding, error) in [
            ("", Encoding::Pem, EncodingError::Pem),
            (&*format!("{pem}\n{pem}"), Encoding::Pem, EncodingError::Pem),
            (&*format!("{pem} more"), Encoding::Pem, EncodingError::Pem),
            ("-----BEGIN CERTIFICATE-----END CERTIFICATE-----", Encoding::Pem, EncodingError::Pem),
            ("%2", Encoding::Pem, EncodingError::Percent),
            ("%+1", Encoding::Pem, EncodingError::Percent),
            ("A*ID", Encoding::Base64, EncodingError::Base64),
            ("AQID", Encoding::Rfc9440, EncodingError::ByteSequence),
            (":", Encoding::Rfc9440, EncodingError::ByteSequence),
            ("", Encoding::Xfcc, EncodingError::Xfcc),
            // The element of the nearest proxy has none; that of the client does not count.
            (&*format!("Cert=\"{pem}\",Hash=1"), Encoding::Xfcc, EncodingError::Xfcc),
            (&*format!("Cert=\"{pem}\","), Encoding::Xfcc, EncodingError::Xfcc),
            (&*format!("Cert=\"{pem}\";Cert=\"{pem}\""), Encoding::Xfcc, EncodingError::Xfcc),
            (&*format!("Cert=\"{pem}"), Encoding::Xfcc, EncodingError::Xfcc),
        ] {
            assert_eq!(decode(text.as_bytes(), encoding), Err(error), "{text}");
        }
    }
}
