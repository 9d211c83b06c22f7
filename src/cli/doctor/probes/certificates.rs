//! The probe that forges the certificate of a client in the headers of proxies.

use super::Probes;

const NAME: &str = "forged_certificate_is_not_read";
const REMEDY: &str = "a header with a client's certificate is read as the client sent it; the proxy has to replace it on every request, or to remove it where there is no certificate (docs/certificates.md)";

/// Headers in which proxies report the certificate of a client, with the form of their values.
const HEADERS: [(&str, Form); 8] = [
    ("X-Forwarded-Client-Cert", Form::Xfcc),
    ("X-Forwarded-Tls-Client-Cert", Form::Base64),
    ("X-Client-Cert", Form::Pem),
    ("X-Client-Cert", Form::Base64),
    ("X-SSL-Client-Cert", Form::Pem),
    ("SSL-Client-Cert", Form::Pem),
    ("X-SSL-Cert", Form::Pem),
    ("Client-Cert", Form::Rfc9440),
];

#[derive(Clone, Copy)]
enum Form {
    Xfcc,
    Pem,
    Base64,
    Rfc9440,
}

impl Form {
    fn of(self, pem: &str) -> String {
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let escaped = || pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B");
        match self {
            Self::Xfcc => format!("Cert=\"{}\"", escaped()),
            Self::Pem => escaped(),
            Self::Base64 => base64,
            Self::Rfc9440 => format!(":{base64}:"),
        }
    }
}

impl Probes<'_> {
    /// Sends the certificate of `--certificate` in headers, over a connection without it.
    pub(super) async fn certificates(&mut self) -> anyhow::Result<()> {
        let Some(pem) = self.certificate.clone() else { return Ok(()) };
        let authorization = self.authorization();
        let protected = self.protected.clone();
        let mut leaks = Vec::new();
        for (name, form) in HEADERS {
            let value = form.of(pem.trim());
            let own = [(name, value.as_str())];
            let alone =
                self.send(protected.method, &protected.path, &own, protected.rest()).await?;
            if alone.is_some_and(|reply| reply.passed()) {
                leaks.push(format!("`{name}` opens {}", protected.path));
            }
        }
        // A token that is bound to the certificate has to stay closed as well.
        if let Some(authorization) = authorization {
            let bare = [("Authorization", authorization.as_str())];
            let reply =
                self.send(protected.method, &protected.path, &bare, protected.rest()).await?;
            let is_bound =
                reply.is_some_and(|reply| reply.code().as_deref() == Some("proof_required"));
            for (name, form) in HEADERS.into_iter().filter(|_| is_bound) {
                let value = form.of(pem.trim());
                let both = [("Authorization", authorization.as_str()), (name, value.as_str())];
                let reply =
                    self.send(protected.method, &protected.path, &both, protected.rest()).await?;
                if reply.is_some_and(|reply| reply.passed()) {
                    leaks.push(format!("`{name}` proves the certificate of a bound token"));
                }
            }
        }
        self.summarize(NAME, HEADERS.len(), &leaks, REMEDY);
        Ok(())
    }
}
