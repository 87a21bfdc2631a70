//! The HTTP client of the commands that talk to a running server. Plain HTTP:
//! the server is on this machine or behind a tunnel. It follows no redirect
//! and uses no proxy, so that the key goes nowhere but to the named server.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use super::args::Server;
use super::exit::{Exit, Failure};
use super::output::one_line;

/// The largest answer: a page of 200 tools with their schemas.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// Registering sends up to 32 MiB.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server, and the key for it.
pub(super) struct Client {
    agent: Agent,
    base: String,
    key: Option<String>,
}

impl Client {
    /// A client of the server that was named.
    pub(super) fn new(server: &Server) -> Result<Self, Failure> {
        let base = server.url.trim_end_matches('/');
        if base.starts_with("https://") {
            let text = "this client speaks plain HTTP only; name the server itself, or use any HTTP client with the API (GET /v1/openapi.json)";
            return Err(Failure::usage(format!("{base}: {text}")));
        }
        if !base.starts_with("http://") {
            return Err(Failure::usage(format!(
                "`{base}` is not a URL; write http://127.0.0.1:7300 (--url or BULKHEAD_URL)"
            )));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("bulkhead/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), base: base.into(), key: server.key.clone() })
    }

    /// Reads.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.request("GET", path).body(())).map(|(_, body)| body)
    }

    /// Sends bytes. The flag says if that made something new.
    pub(super) fn post(&self, path: &str, media_type: &str, bytes: &[u8]) -> Result<(bool, Value), Failure> {
        let request = self.request("POST", path).header("content-type", media_type);
        let (status, body) = self.send(request.body(bytes))?;
        Ok((status != 200, body))
    }

    /// Does something that an operator says why.
    pub(super) fn act(&self, path: &str, reason: &str) -> Result<Value, Failure> {
        let request = self.request("POST", path).header("bulkhead-reason", reason);
        self.send(request.body(())).map(|(_, body)| body)
    }

    fn request(&self, method: &str, path: &str) -> ureq::http::request::Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn send(
        &self,
        request: Result<Request<impl ureq::AsSendBody>, ureq::http::Error>,
    ) -> Result<(u16, Value), Failure> {
        let request = request.map_err(|error| Failure::usage(format!("the URL or key is not valid: {error}")))?;
        let response = self.agent.run(request).map_err(|error| {
            let text = format!("{} can't be reached: {error}; is the server running (`bulkhead serve`), and is --url or BULKHEAD_URL right?", self.base);
            Failure::new(Exit::Unavailable, text)
        })?;
        answer(response)
    }
}

fn answer(mut response: Response<Body>) -> Result<(u16, Value), Failure> {
    let status = response.status();
    let bytes = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    let bytes = bytes.map_err(|error| Failure::new(Exit::Unavailable, format!("the answer broke off: {error}")))?;
    let body = serde_json::from_slice::<Value>(&bytes);
    if status.is_success() {
        let body =
            body.map_err(|_| Failure::new(Exit::Unavailable, "the answer is not JSON: is this a Bulkhead server?"))?;
        return Ok((status.as_u16(), body));
    }
    Err(Failure::new(Exit::Unavailable, refusal(status.as_u16(), &body.unwrap_or_default())))
}

/// What a problem (RFC 9457) says.
fn refusal(status: u16, problem: &Value) -> String {
    let field = |name: &str| problem.get(name).and_then(Value::as_str).map(one_line).unwrap_or_default();
    let (code, detail) = (field("code"), field("detail"));
    let hint = match status {
        401 => "; set BULKHEAD_KEY to a key that `bulkhead keys create` printed",
        403 => "; make a key with that scope by `bulkhead keys create --scopes …`",
        _ => "",
    };
    if code.is_empty() {
        format!("the server answered {status}{hint}")
    } else {
        format!("the server refused ({code}): {detail}{hint}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::{Read as _, Write as _};

    fn server(url: &str) -> Server {
        Server { url: url.into(), key: Some("bh_x".into()) }
    }

    #[test]
    fn only_plain_http_urls() {
        for url in ["https://a.example", "127.0.0.1:7300", "ftp://x", ""] {
            assert_eq!(Client::new(&server(url)).err().map(|failure| failure.exit), Some(Exit::Usage), "{url}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = refusal(401, &json!({"code": "invalid_key", "detail": "there is no such API key"}));
        assert!(text.contains("invalid_key") && text.contains("BULKHEAD_KEY"), "{text}");
        assert_eq!(refusal(502, &Value::Null), "the server answered 502");
    }

    #[test]
    fn the_key_is_sent_and_the_answer_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let url = format!("http://{}/", listener.local_addr().expect("has one"));
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let read = stream.read(&mut request).expect("a request");
            stream
                .write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{\"id\": 1}")
                .expect("writes");
            String::from_utf8_lossy(&request[..read]).to_lowercase()
        });
        let client = Client::new(&server(&url)).expect("a URL");
        assert_eq!(client.get("/v1/tools").expect("answered"), json!({"id": 1}));
        let request = peer.join().expect("served");
        assert!(request.starts_with("get /v1/tools http/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: bearer bh_x\r\n"), "{request}");
        assert_eq!(client.get("/").err().map(|failure| failure.exit), Some(Exit::Unavailable));
    }
}
