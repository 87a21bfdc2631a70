//! TLS: rustls with ring, and who is trusted.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::config::{EgressConfig, EgressSetupError};

/// HTTP/2, as ALPN calls it.
pub(super) const H2: &[u8] = b"h2";

pub(super) fn connector(config: &EgressConfig) -> Result<TlsConnector, EgressSetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(config)?)
        .with_no_client_auth();
    tls.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    // A resumed session would tell the server that two tenants share a host,
    // and that one name led to a public and to a private address.
    tls.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(tls)))
}

fn roots(config: &EgressConfig) -> Result<RootCertStore, EgressSetupError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &config.ca_file {
        for certificate in read(path)? {
            roots.add(certificate).map_err(|error| refused(path, error))?;
        }
    }
    if config.native_roots {
        let found = rustls_native_certs::load_native_certs();
        // Stores of machines hold odd certificates that nobody misses.
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(added, ignored, errors = found.errors.len(), "trusted authorities of the machine");
        if roots.is_empty() {
            let errors = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(EgressSetupError::NoRoots(errors));
        }
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, EgressSetupError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refused(path, error))?;
    if certificates.is_empty() {
        return Err(refused(path, "there is none"));
    }
    Ok(certificates)
}

fn refused(path: &Path, reason: impl ToString) -> EgressSetupError {
    EgressSetupError::CaFile { path: path.to_owned(), reason: reason.to_string() }
}
