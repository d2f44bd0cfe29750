//! Throw-away keys and certificates.

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::Error;

/// A certificate authority that lives for this one certificate, whose key nobody keeps.
pub(crate) struct Certificates {
    /// What the agent trusts, PEM.
    pub(crate) authority: String,
    /// What the relay shows, PEM.
    pub(crate) relay: String,
    /// The relay's private key, PEM.
    pub(crate) relay_key: String,
}

impl Certificates {
    pub(crate) fn make() -> Result<Certificates, Error> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "Umbilical quickstart");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);

        let relay = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let relay_key = KeyPair::generate()?;
        let relay_certificate = relay.signed_by(&relay_key, &issuer)?;
        Ok(Certificates {
            authority: authority_certificate.pem(),
            relay: relay_certificate.pem(),
            relay_key: relay_key.serialize_pem(),
        })
    }
}

/// A shared access key: 256 random bits in Base64, as the hosted service makes them.
pub(crate) fn shared_access_key() -> Result<String, Error> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Randomness)?;
    Ok(BASE64.encode(&bytes))
}
