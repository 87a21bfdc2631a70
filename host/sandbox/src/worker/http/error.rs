//! What the host's errors are called in `wasi:http`.

use bulkhead_core::ports::egress::EgressError;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::{DnsErrorPayload, ErrorCode};

/// The error of the stock implementation that a guest sees as its code.
pub(super) fn of(error: EgressError) -> Error {
    match error {
        EgressError::Denied => Error::HttpRequestDenied,
        EgressError::Dns => Error::DnsError { rcode: None, info_code: None },
        EgressError::AddressForbidden => Error::DestinationIpProhibited,
        EgressError::ConnectionRefused => Error::ConnectionRefused,
        EgressError::Unreachable => Error::DestinationIpUnroutable,
        EgressError::ConnectionTimeout => Error::ConnectionTimeout,
        EgressError::ConnectionTerminated => Error::ConnectionTerminated,
        EgressError::LimitReached | EgressError::NoConnection { .. } => Error::ConnectionLimitReached,
        EgressError::Certificate => Error::TlsCertificateError,
        EgressError::Tls => Error::TlsProtocolError,
        EgressError::ResponseTimeout => Error::HttpResponseTimeout,
        EgressError::ResponseHeadTooLarge => Error::HttpResponseHeaderSectionSize(None),
        EgressError::ResponseTooLarge => Error::HttpResponseBodySize(None),
        EgressError::RequestTooLarge => Error::HttpRequestBodySize(None),
        EgressError::InvalidRequest => Error::HttpRequestUriInvalid,
        EgressError::Protocol => Error::HttpProtocolError,
        EgressError::SecretInResponse => Error::InternalError(Some(error.to_string())),
        EgressError::Internal => Error::InternalError(None),
    }
}

/// The same as a guest's code: the stock implementation forgets it where a
/// body fails. Only what [`of`] gives is known.
pub(super) fn code(error: &Error) -> Option<ErrorCode> {
    Some(match error {
        Error::HttpRequestDenied => ErrorCode::HttpRequestDenied,
        Error::DnsError { .. } => ErrorCode::DnsError(DnsErrorPayload { rcode: None, info_code: None }),
        Error::DestinationIpProhibited => ErrorCode::DestinationIpProhibited,
        Error::ConnectionRefused => ErrorCode::ConnectionRefused,
        Error::DestinationIpUnroutable => ErrorCode::DestinationIpUnroutable,
        Error::ConnectionTimeout => ErrorCode::ConnectionTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::ConnectionLimitReached => ErrorCode::ConnectionLimitReached,
        Error::TlsCertificateError => ErrorCode::TlsCertificateError,
        Error::TlsProtocolError => ErrorCode::TlsProtocolError,
        Error::HttpResponseTimeout => ErrorCode::HttpResponseTimeout,
        Error::HttpResponseHeaderSectionSize(size) => ErrorCode::HttpResponseHeaderSectionSize(*size),
        Error::HttpResponseBodySize(size) => ErrorCode::HttpResponseBodySize(*size),
        Error::HttpRequestBodySize(size) => ErrorCode::HttpRequestBodySize(*size),
        Error::HttpRequestUriInvalid => ErrorCode::HttpRequestUriInvalid,
        Error::HttpProtocolError => ErrorCode::HttpProtocolError,
        Error::InternalError(text) => ErrorCode::InternalError(text.clone()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_code_of_its_own() {
        use EgressError::*;
        let all = [
            Denied,
            Dns,
            AddressForbidden,
            ConnectionRefused,
            Unreachable,
            ConnectionTimeout,
            ConnectionTerminated,
            LimitReached,
            Certificate,
            Tls,
            ResponseTimeout,
            ResponseHeadTooLarge,
            ResponseTooLarge,
            RequestTooLarge,
            InvalidRequest,
            Protocol,
            SecretInResponse,
            Internal,
        ];
        let mut codes: Vec<String> =
            all.iter().map(|error| format!("{:?}", code(&of(*error)).expect("known"))).collect();
        codes.sort();
        codes.dedup();
        assert_eq!(codes.len(), all.len());
    }
}
