//! A web server of the outside world: remembers what it was asked, and answers
//! by the path.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The first line.
    pub line: String,
    /// Field by field, in lower case names.
    pub header: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.header.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The server; it ends with the test.
pub struct Origin {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Origin {
    /// Answers each request with what `answer` makes of it: a whole response.
    pub fn start(answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::accepting(answer, |stream| stream)
    }

    /// The same by TLS, as `localhost`; and who vouches for it, in PEM.
    pub fn secure(answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let origin = Self::accepting(answer, move |stream| {
            rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), stream)
        });
        (origin, made.cert.pem())
    }

    fn accepting<S: Read + Write + Send + 'static>(
        answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static,
        dress: impl Fn(TcpStream) -> S + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<Seen>>>::default());
        let (known, answer) = (seen.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let (known, answer, stream) = (known.clone(), answer.clone(), dress(stream));
                std::thread::spawn(move || serve(stream, &known, &*answer));
            }
        });
        Self { port, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// With this in it, or with nothing, a response ends its connection.
const CLOSE: &[u8] = b"connection: close\r\n";

/// A response with this body.
pub fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn serve(stream: impl Read + Write, known: &Mutex<Vec<Seen>>, answer: &dyn Fn(&Seen) -> Vec<u8>) {
    let mut lines = BufReader::new(stream);
    while let Some(seen) = read(&mut lines) {
        let response = answer(&seen);
        known.lock().unwrap().push(seen);
        // Whoever asked may be gone.
        let stream = lines.get_mut();
        let ends = response.is_empty() || response.windows(CLOSE.len()).any(|part| part == CLOSE);
        if stream.write_all(&response).and_then(|()| stream.flush()).is_err() || ends {
            return;
        }
    }
}

fn read(lines: &mut BufReader<impl Read>) -> Option<Seen> {
    let mut line = String::new();
    lines.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut header = Vec::new();
    loop {
        let mut field = String::new();
        lines.read_line(&mut field).ok()?;
        let Some((name, value)) = field.trim_end().split_once(':') else { break };
        header.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut seen = Seen { line: line.trim_end().to_owned(), header, body: Vec::new() };
    if seen.field("transfer-encoding") == Some("chunked") {
        while chunk(lines, &mut seen.body)? > 0 {}
        return Some(seen);
    }
    let length = seen.field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    seen.body = vec![0; length];
    lines.read_exact(&mut seen.body).ok()?;
    Some(seen)
}

/// Reads one piece of a body; the last one is empty.
fn chunk(lines: &mut BufReader<impl Read>, body: &mut Vec<u8>) -> Option<usize> {
    let mut line = String::new();
    lines.read_line(&mut line).ok()?;
    let size = usize::from_str_radix(line.trim(), 16).ok()?;
    let start = body.len();
    // With the end of its line.
    body.resize(start + size + 2, 0);
    lines.read_exact(&mut body[start..]).ok()?;
    body.truncate(start + size);
    Some(size)
}
