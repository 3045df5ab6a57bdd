//! Who may talk: from the secret of a cluster to the certificates and TLS settings of one node.
//!
//! Every node derives the same certificate authority from the secret and signs a certificate of its own with it, so
//! nobody hands out certificates and nothing is stored. Knows nothing of peers, messages or addresses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SerialNumber, date_time_ymd,
};
use ring::{hkdf, hmac};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::token::Secret;
use crate::id::{ClusterId, NodeId};
use crate::time::Wall;

/// What every dialler asks for and every certificate of a node carries: the authority is what tells clusters apart.
pub(super) const SERVER_NAME: &str = "cluster.maelstrom";

/// What follows the node id in the second name of a certificate.
const NODE_SUFFIX: &str = ".node.maelstrom";

/// How long before now a certificate begins to be valid. Clocks further apart than two days break so much else (logs,
/// schedules) that a refusal is the better answer.
const VALID_BEFORE: Duration = Duration::from_hours(2 * 24);

/// How long a certificate is valid. It is renewed daily and at every start; 30 days bridge a process whose renewal
/// fails unseen.
const VALID_AFTER: Duration = Duration::from_hours(30 * 24);

/// The protocol name of control connections.
pub(super) const CONTROL: &[u8] = b"maelstrom-control/1";

/// The protocol name of data connections.
pub(super) const DATA: &[u8] = b"maelstrom-data/1";

/// The DER of an Ed25519 private key (RFC 8410) up to the 32 bytes of its seed.
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Keys or certificates could not be made. State: what was there before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Making a key or a certificate failed.
    #[error("the certificate of this node cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS refuses what was made.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

fn tls(error: impl fmt::Display) -> TrustError {
    TrustError::Tls(error.to_string())
}

/// The keys of one node: the authority of its cluster and its own certificate.
pub struct Trust {
    authority: CertifiedIssuer<'static, KeyPair>,
    node: NodeId,
    reset: [u8; 32],
    leaf: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Trust {
    /// Derives the authority of the cluster and makes a certificate for `node`, valid around `wall`.
    ///
    /// # Errors
    /// The system gives no randomness for the key of the node.
    pub fn new(cluster: ClusterId, secret: &Secret, node: NodeId, wall: Wall) -> Result<Self, TrustError> {
        let seed = derive(secret, b"maelstrom authority", &cluster.0.to_be_bytes())?;
        let reset = derive(secret, b"maelstrom stateless reset", &node.0.to_be_bytes())?;
        let authority = authority(cluster, &seed)?;
        let (leaf, key) = leaf(&authority, node, wall)?;
        Ok(Self { authority, node, reset, leaf, key })
    }

    /// Replaces the certificate by a new one around `wall`, with a new key.
    pub(super) fn renew(&mut self, wall: Wall) -> Result<(), TrustError> {
        (self.leaf, self.key) = leaf(&self.authority, self.node, wall)?;
        Ok(())
    }

    /// The key of stateless resets and connection ids. A node has the same after a restart, so it can tell its peers
    /// at once that it has forgotten their connections.
    pub(super) fn reset_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.reset)
    }

    /// TLS for dialling with one protocol.
    pub(super) fn client(&self, protocol: &[u8], clock: Arc<TlsClock>) -> Result<Arc<QuicClientConfig>, TrustError> {
        let mut config = rustls::ClientConfig::builder_with_details(provider(), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain(), self.private_key())
            .map_err(tls)?;
        config.alpn_protocols = vec![protocol.to_vec()];
        // A resumed session would not look at the certificates again: an expired one would pass.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(QuicClientConfig::try_from(config).map_err(tls)?))
    }

    /// TLS for accepting both protocols.
    pub(super) fn server(&self, clock: Arc<TlsClock>) -> Result<Arc<QuicServerConfig>, TrustError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider()).build().map_err(tls)?;
        let mut config = rustls::ServerConfig::builder_with_details(provider(), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain(), self.private_key())
            .map_err(tls)?;
        config.alpn_protocols = vec![CONTROL.to_vec(), DATA.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(QuicServerConfig::try_from(config).map_err(tls)?))
    }

    fn roots(&self) -> Result<Arc<rustls::RootCertStore>, TrustError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.der().clone()).map_err(tls)?;
        Ok(Arc::new(roots))
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf.clone()]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// The node that a verified certificate was made for.
pub(super) fn node_of(leaf: &CertificateDer<'_>) -> Option<NodeId> {
    let leaf = webpki::EndEntityCert::try_from(leaf).ok()?;
    leaf.valid_dns_names().find_map(|name| name.strip_suffix(NODE_SUFFIX)?.parse().ok())
}

/// The wall clock of the process as TLS wants it.
pub(super) struct TlsClock(pub(super) Arc<dyn Fn() -> Wall + Send + Sync>);

impl fmt::Debug for TlsClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClock")
    }
}

impl rustls::time_provider::TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis((self.0)().0)))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A key that follows from the secret of a cluster. The label says for what: no two uses share one.
pub(crate) fn derive(secret: &Secret, label: &[u8], context: &[u8]) -> Result<[u8; 32], TrustError> {
    let mut key = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"maelstrom 1")
        .extract(secret.as_bytes())
        .expand(&[label, context], hkdf::HKDF_SHA256)
        .and_then(|bytes| bytes.fill(&mut key))
        .map_err(|_| TrustError::Tls("no key can be derived from the secret".to_owned()))?;
    Ok(key)
}

/// The authority: byte for byte the same on every node, because all of it follows from the id and the seed. Its name
/// holds the cluster id, so that "another cluster" and "another secret" are two different errors of TLS.
fn authority(cluster: ClusterId, seed: &[u8; 32]) -> Result<CertifiedIssuer<'static, KeyPair>, TrustError> {
    let document = PrivatePkcs8KeyDer::from([ED25519_PKCS8.as_slice(), seed].concat());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&document, &PKCS_ED25519)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, format!("maelstrom cluster {cluster}"));
    params.serial_number = Some(SerialNumber::from_slice(&[1]));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(4000, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(CertifiedIssuer::self_signed(params, key)?)
}

/// A certificate for one node with a key of its own.
fn leaf(
    authority: &CertifiedIssuer<'static, KeyPair>,
    node: NodeId,
    wall: Wall,
) -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>), TrustError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned(), format!("{node}{NODE_SUFFIX}")])?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, format!("maelstrom node {node}"));
    // Far beyond year 4000 the date type would overflow: a clock that says so is wrong anyway.
    let now = Duration::from_millis(wall.0.min(60_000_000_000_000));
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(VALID_BEFORE);
    params.not_after = epoch + now + VALID_AFTER;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, authority)?;
    Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_of_a_cluster_derive_the_same_authority_and_other_secrets_another() {
        let trust = |cluster, secret, node, wall| {
            Trust::new(ClusterId(cluster), &Secret::from_bytes([secret; 32]), NodeId(node), Wall(wall)).expect("trust")
        };
        let one = trust(1, 2, 3, 1_800_000_000_000);
        assert_eq!(one.authority.der(), trust(1, 2, 4, 0).authority.der());
        assert_ne!(one.authority.der(), trust(1, 5, 3, 0).authority.der());
        assert_ne!(one.authority.der(), trust(6, 2, 3, 0).authority.der());
    }

    #[test]
    fn a_certificate_names_its_node() {
        let secret = Secret::from_bytes([1; 32]);
        let mut trust = Trust::new(ClusterId(1), &secret, NodeId(77), Wall(1_800_000_000_000)).expect("trust");
        assert_eq!(node_of(&trust.leaf), Some(NodeId(77)));
        let before = trust.leaf.clone();
        trust.renew(Wall(u64::MAX)).expect("renewed");
        assert_ne!(trust.leaf, before);
        assert_eq!(node_of(&trust.leaf), Some(NodeId(77)));
        assert_eq!(node_of(trust.authority.der()), None);
        assert_eq!(node_of(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
