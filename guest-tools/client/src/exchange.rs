//! One exchange.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    Scheme, http_error_code,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use crate::{Failure, Header, Url};

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        let text = format!("{code:?}");
        let name = text.trim_start_matches("ErrorCode::");
        Failure { code: name.split(['(', ' ']).next().unwrap_or(name).to_string() }
    }
}

fn own(code: &str) -> Failure {
    Failure { code: code.into() }
}

fn of_stream(error: StreamError) -> Failure {
    match error {
        StreamError::Closed => own("Closed"),
        StreamError::LastOperationFailed(error) => match http_error_code(&error) {
            Some(code) => code.into(),
            None => Failure { code: error.to_debug_string() },
        },
    }
}

fn method(text: &str) -> Method {
    match text {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.into()),
    }
}

/// Begins an exchange.
pub fn start(text: &str, url: &Url, header: &Header, has_body: bool) -> Result<Sending, Failure> {
    let header = Fields::from_list(header).map_err(|error| Failure { code: format!("{error:?}") })?;
    let request = OutgoingRequest::new(header);
    let scheme = if url.scheme == "http" { Scheme::Http } else { Scheme::Https };
    request.set_method(&method(text)).map_err(|()| own("HttpRequestMethodInvalid"))?;
    request.set_scheme(Some(&scheme)).map_err(|()| own("HttpRequestUriInvalid"))?;
    request.set_authority(Some(&url.authority)).map_err(|()| own("HttpRequestUriInvalid"))?;
    request.set_path_with_query(Some(&url.target)).map_err(|()| own("HttpRequestUriInvalid"))?;
    let body = match has_body {
        true => Some(request.body().map_err(|()| own("HttpRequestBodySize"))?),
        false => None,
    };
    let stream = body.as_ref().and_then(|body| body.write().ok());
    let response = handle(request, None)?;
    Ok(Sending { stream, body, response })
}

/// A request on its way.
pub struct Sending {
    // Dropped in this order: the stream is the body's child.
    stream: Option<OutputStream>,
    body: Option<OutgoingBody>,
    response: FutureIncomingResponse,
}

impl Sending {
    /// Sends a part of the body; waits while nobody takes it.
    pub fn write(&mut self, mut data: &[u8]) -> Result<(), Failure> {
        let Some(stream) = &self.stream else { return Err(own("Closed")) };
        while !data.is_empty() {
            let room = stream.check_write().map_err(of_stream)?;
            if room == 0 {
                stream.subscribe().block();
                continue;
            }
            let (now, rest) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            stream.write(now).map_err(of_stream)?;
            data = rest;
        }
        Ok(())
    }

    /// The body is whole.
    pub fn finish(&mut self) -> Result<(), Failure> {
        drop(self.stream.take());
        match self.body.take() {
            Some(body) => Ok(OutgoingBody::finish(body, None)?),
            None => Ok(()),
        }
    }

    /// Waits for the head of the response.
    pub fn response(self) -> Result<Response, Failure> {
        self.wait().map(|response| Response { stream: None, body: None, response })
    }

    /// The same, and keeps a body that is not finished.
    pub fn wait(&self) -> Result<IncomingResponse, Failure> {
        loop {
            match self.response.get() {
                None => self.response.subscribe().block(),
                Some(Ok(response)) => return Ok(response?),
                Some(Err(())) => return Err(own("Taken")),
            }
        }
    }
}

/// A response.
pub struct Response {
    // Dropped in this order: the stream is the body's child.
    stream: Option<InputStream>,
    body: Option<IncomingBody>,
    response: IncomingResponse,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.response.status()
    }

    /// Its header, in order.
    pub fn header(&self) -> Header {
        let fields: Vec<(String, Vec<u8>)> = self.response.headers().entries();
        fields
    }

    /// Reads some of the body; none is left at `None`.
    pub fn read(&mut self, most: u64) -> Result<Option<Vec<u8>>, Failure> {
        if self.stream.is_none() {
            let body = self.response.consume().map_err(|()| own("Taken"))?;
            self.stream = body.stream().ok();
            self.body = Some(body);
        }
        let Some(stream) = &self.stream else { return Err(own("Taken")) };
        match stream.blocking_read(most) {
            Ok(data) => Ok(Some(data)),
            Err(StreamError::Closed) => Ok(None),
            Err(error) => Err(of_stream(error)),
        }
    }
}
