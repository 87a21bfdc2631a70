//! What the libraries report, to what the port says.

use std::error::Error;
use std::io::{self, ErrorKind};

use bulkhead_core::ports::egress::EgressError;
use hyper_util::client::legacy;

/// TCP to an address failed.
pub(super) fn of_connecting(error: &io::Error) -> EgressError {
    match error.kind() {
        ErrorKind::ConnectionRefused => EgressError::ConnectionRefused,
        ErrorKind::TimedOut => EgressError::ConnectionTimeout,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => EgressError::ConnectionTerminated,
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::AddrNotAvailable
        // A packet filter of the host says no.
        | ErrorKind::PermissionDenied
        | ErrorKind::InvalidInput => EgressError::Unreachable,
        // No descriptor, no memory.
        _ => EgressError::Internal,
    }
}

/// The TLS handshake failed.
pub(super) fn of_handshake(error: &io::Error) -> EgressError {
    of_stream(error)
}

/// A request failed before the head of its response.
pub(super) fn of_client(error: &legacy::Error) -> EgressError {
    of_chain(error)
}

/// The body of a response failed.
pub(super) fn of_body(error: &hyper::Error) -> EgressError {
    of_chain(error)
}

/// The first of an error's causes that says something; or else what the last
/// one of hyper hints at.
fn of_chain(error: &(dyn Error + 'static)) -> EgressError {
    let (mut cause, mut hint) = (Some(error), EgressError::Protocol);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<EgressError>() {
            return *error;
        } else if let Some(error) = error.downcast_ref::<h2::Error>() {
            return of_h2(error);
        } else if let Some(error) = error.downcast_ref::<io::Error>() {
            return of_stream(error);
        } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
            match of_hyper(error) {
                Ok(known) => return known,
                Err(hinted) => hint = hinted,
            }
        }
        cause = error.source();
    }
    hint
}

/// What an error of hyper says, or what it hints at if its cause says nothing.
fn of_hyper(error: &hyper::Error) -> Result<EgressError, EgressError> {
    if error.is_parse_too_large() {
        Ok(EgressError::ResponseHeadTooLarge)
    } else if error.is_parse() {
        Ok(EgressError::Protocol)
    } else if error.is_incomplete_message() || error.is_timeout() {
        Ok(EgressError::ConnectionTerminated)
    } else if error.is_canceled() || error.is_closed() || error.is_shutdown() || error.is_body_write_aborted() {
        Err(EgressError::ConnectionTerminated)
    } else if error.is_user() {
        // A request that hyper refuses should not have come this far.
        Err(EgressError::Internal)
    } else {
        Err(EgressError::Protocol)
    }
}

fn of_h2(error: &h2::Error) -> EgressError {
    match error.get_io() {
        Some(error) => of_stream(error),
        // The other side gave up: it sent RST_STREAM or GOAWAY.
        None if error.is_remote() => EgressError::ConnectionTerminated,
        None => EgressError::Protocol,
    }
}

/// Reading from or writing to a connection failed.
fn of_stream(error: &io::Error) -> EgressError {
    if let Some(inner) = error.get_ref() {
        if let Some(error) = inner.downcast_ref::<rustls::Error>() {
            return match error {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    EgressError::Certificate
                }
                _ => EgressError::Tls,
            };
        }
        if error.kind() == ErrorKind::InvalidData || error.kind() == ErrorKind::InvalidInput {
            return EgressError::Protocol;
        }
    }
    EgressError::ConnectionTerminated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_tcp_are_told_apart() {
        for (kind, expected) in [
            (ErrorKind::ConnectionRefused, EgressError::ConnectionRefused),
            (ErrorKind::HostUnreachable, EgressError::Unreachable),
            (ErrorKind::NetworkUnreachable, EgressError::Unreachable),
            (ErrorKind::TimedOut, EgressError::ConnectionTimeout),
            (ErrorKind::ConnectionReset, EgressError::ConnectionTerminated),
            (ErrorKind::OutOfMemory, EgressError::Internal),
        ] {
            assert_eq!(of_connecting(&kind.into()), expected);
        }
    }

    #[test]
    fn failures_of_tls_are_found_in_a_stream() {
        let wrapped = |error: rustls::Error| io::Error::new(ErrorKind::InvalidData, error);
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(of_stream(&wrapped(unknown)), EgressError::Certificate);
        assert_eq!(of_stream(&wrapped(rustls::Error::DecryptError)), EgressError::Tls);
        assert_eq!(of_stream(&ErrorKind::UnexpectedEof.into()), EgressError::ConnectionTerminated);
    }
}
