//! Certificates on a device that does not know the date, and is older than the certificate it is shown.
//!
//! A program that is never replaced outlives every certificate of its relay. Without a clock all it knows is that it can't
//! be earlier than when it was made, and certificates made since would be "not valid yet" for ever. But an authority signs
//! none for the future: that there is such a certificate says that its first day has come. So it is judged once more, whole,
//! at that day. Signatures, names and what has run out by then are refused as ever.

use std::sync::Arc;

use futures_rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use futures_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use futures_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use futures_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use futures_rustls::rustls::server::ParsedCertificate;
use futures_rustls::rustls::time_provider::TimeProvider;
use futures_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// A clock of which nobody may ever have told the time.
pub trait DeviceClock: TimeProvider {
    /// Whether the time it gives is only the earliest that is possible.
    fn is_unset(&self) -> bool;
}

/// rustls's own judgement, at the first day of the certificate where the clock is unset.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) roots: RootCertStore,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) clock: Arc<dyn DeviceClock>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let (roots, algorithms) = (&self.roots, self.algorithms.all);
        let mut time = now;
        // Each round is at a later day, of another certificate of the chain: there is an end.
        loop {
            match verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, time, algorithms) {
                Ok(()) => break,
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if not_before > time && self.clock.is_unset() =>
                {
                    time = not_before;
                }
                Err(error) => return Err(error),
            }
        }
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
