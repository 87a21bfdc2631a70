//! A client as a user would write one: plain HTTP and JSON.

use std::io::{BufRead as _, BufReader, Read};
use std::time::Duration;

use serde_json::{Value, json};

use super::guests;

/// A client with a key.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
}

/// A response, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The JSON of an answer that must have this status.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// Asserts a problem with this status and code.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!((self.status, self.header("content-type")), (status, "application/problem+json"), "{text}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{text}");
        assert_eq!(problem["status"], status, "{text}");
        assert_eq!(problem["type"], format!("urn:bulkhead:problem:{code}"));
        problem
    }
}

impl Client {
    pub fn new(url: &str, key: Option<&str>) -> Self {
        // A connection of its own for each request: a server may close one after
        // a refusal whose body it did not read.
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_idle_connections(0)
            .timeout_global(Some(Duration::from_secs(180)));
        Self { agent: config.build().into(), url: url.into(), key: key.map(str::to_owned) }
    }

    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// Where its server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its key; empty if it has none.
    #[allow(dead_code, reason = "for the benchmark, which sends requests of its own")]
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or_default()
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> ureq::http::request::Builder {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let request = self.request(method, path, headers).body(body).unwrap();
        let (parts, mut body) = self.agent.run(request).unwrap().into_parts();
        let body = body.with_config().limit(1 << 30).read_to_vec().unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The same as `post`, but a server that vanishes is no failure of the test.
    pub fn try_post(&self, path: &str, body: &Value) -> Option<Answer> {
        self.try_post_with(path, body, &[])
    }

    pub fn try_post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Option<Answer> {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.try_send("POST", path, &headers, body.to_string().as_bytes())
    }

    pub fn try_put(&self, path: &str, body: &[u8]) -> Option<Answer> {
        self.try_send("PUT", path, &[], body)
    }

    /// Sends a piece of an upload.
    pub fn try_add(&self, upload: &str, offset: u64, piece: &[u8]) -> Option<Answer> {
        let headers = [("content-type", "application/partial-upload"), ("upload-offset", &*offset.to_string())];
        self.try_send("PATCH", upload, &headers, piece)
    }

    pub fn try_get(&self, path: &str) -> Option<Answer> {
        self.try_send("GET", path, &[], b"")
    }

    pub fn try_delete(&self, path: &str) -> Option<Answer> {
        self.try_send("DELETE", path, &[], b"")
    }

    /// Registers a component.
    pub fn try_send_wasm(&self, wasm: &[u8]) -> Option<Answer> {
        self.try_send("POST", "/v1/tools", &[("content-type", "application/wasm")], wasm)
    }

    fn try_send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
        let request = self.request(method, path, headers).body(body).ok()?;
        let (parts, mut body) = self.agent.run(request).ok()?.into_parts();
        let body = body.read_to_vec().ok()?;
        Some(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// A task's events after one, if they can be had.
    pub fn try_follow(&self, task: &str, after: u64) -> Option<Stream> {
        let path = format!("/v1/tasks/{task}/events?after={after}");
        let (parts, body) = self.agent.run(self.request("GET", &path, &[]).body(()).ok()?).ok()?.into_parts();
        let lines = BufReader::new(Box::new(body.into_reader()) as Box<dyn Read + Send>);
        (parts.status == 200).then_some(Stream { headers: parts.headers, lines, ended: None })
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// The status alone, of what may have no end.
    pub fn status_of(&self, path: &str) -> u16 {
        self.agent.run(self.request("GET", path, &[]).body(&b""[..]).unwrap()).unwrap().status().as_u16()
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, body, &[])
    }

    pub fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.send("POST", path, &headers, body.to_string().as_bytes())
    }

    pub fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.send("PUT", path, &[], body)
    }

    /// Sends a body that need not fit into memory.
    pub fn put_reader(&self, path: &str, body: impl Read) -> Answer {
        self.try_put_reader(path, body).unwrap()
    }

    /// The same; nothing if the connection ended before the answer.
    pub fn try_put_reader(&self, path: &str, body: impl Read) -> Option<Answer> {
        self.try_send_reader("PUT", path, &[], body)
    }

    /// The same by another method, and with headers.
    pub fn try_send_reader(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        mut body: impl Read,
    ) -> Option<Answer> {
        let request = self.request(method, path, headers).body(ureq::SendBody::from_reader(&mut body)).unwrap();
        let (parts, mut body) = self.agent.run(request).ok()?.into_parts();
        Some(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.read_to_vec().unwrap() })
    }

    /// Makes an empty task and gives its id.
    pub fn task(&self) -> String {
        let task = self.post("/v1/tasks", &json!({})).expect(201);
        assert_eq!(task["state"], "ready");
        task["id"].as_str().unwrap().to_owned()
    }

    /// Calls a tool and waits for its end.
    pub fn call(&self, task: &str, tool: &str, arguments: Value) -> Value {
        self.call_with(task, json!({"tool": tool, "arguments": arguments}))
    }

    pub fn call_with(&self, task: &str, body: Value) -> Value {
        let call = self.post(&format!("/v1/tasks/{task}/calls?wait=60"), &body).expect(200);
        assert!(call["outcome"]["usage"]["wall_us"].is_u64(), "{call}");
        call
    }

    /// The text of a call's first text part.
    pub fn text_of(call: &Value) -> String {
        assert_eq!(call["state"], "succeeded", "{call}");
        let parts = call["outcome"]["content"].as_array().unwrap();
        parts.iter().find_map(|part| part["text"].as_str()).unwrap_or_default().to_owned()
    }

    /// Registers a guest from `guest-tools/dist` and waits until it is ready.
    pub fn register(&self, guest: &str) -> Value {
        let tool = self.register_bytes(&guests::wasm(guest));
        assert_eq!(tool["state"], "ready", "{guest}: {tool}");
        tool
    }

    /// Registers bytes and waits until they are ready or rejected.
    pub fn register_bytes(&self, wasm: &[u8]) -> Value {
        let answer = self.send("POST", "/v1/tools", &[("content-type", "application/wasm")], wasm);
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        let mut tool = answer.json();
        let path = format!("/v1/tools/{}", tool["id"].as_str().unwrap());
        while tool["state"] == "compiling" {
            std::thread::sleep(Duration::from_millis(20));
            tool = self.get(&path).expect(200);
        }
        tool
    }

    /// Opens a task's event stream.
    pub fn follow(&self, task: &str, headers: &[(&str, &str)], query: &str) -> Stream {
        let request = self.request("GET", &format!("/v1/tasks/{task}/events{query}"), headers).body(()).unwrap();
        let (parts, body) = self.agent.run(request).unwrap().into_parts();
        assert_eq!(parts.status, 200, "{parts:?}");
        Stream { headers: parts.headers, lines: BufReader::new(Box::new(body.into_reader())), ended: None }
    }

    /// Every event up to and including the first of this type.
    pub fn events_until(&self, task: &str, kind: &str) -> Vec<Value> {
        self.follow(task, &[], "").until(|event| event["type"] == kind)
    }
}

/// An event stream.
pub struct Stream {
    pub headers: ureq::http::HeaderMap,
    lines: BufReader<Box<dyn Read + Send>>,
    /// Why the server ended it: the data of `stream.ended`.
    pub ended: Option<Value>,
}

impl Stream {
    /// The next event; checks that its id and name say what its data says.
    pub fn next(&mut self) -> Option<Value> {
        self.read().unwrap()
    }

    /// The same; that the connection breaks is no failure of the test.
    pub fn try_next(&mut self) -> Option<Value> {
        self.read().ok().flatten()
    }

    fn read(&mut self) -> std::io::Result<Option<Value>> {
        let (mut id, mut name, mut data) = (None, None, None);
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if !line.ends_with('\n') {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end_matches('\n');
            match line.split_once(": ") {
                Some(("id", value)) => id = Some(value.parse::<u64>().unwrap()),
                Some(("event", value)) => name = Some(value.to_owned()),
                Some(("data", value)) => data = Some(serde_json::from_str::<Value>(value).unwrap()),
                _ if line.is_empty() => {
                    let Some(data) = data.take() else { continue };
                    if name.as_deref() == Some("stream.ended") {
                        assert_eq!((id, data["type"].as_str()), (None, name.as_deref()));
                        self.ended = Some(data);
                        continue;
                    }
                    assert_eq!(data["seq"].as_u64(), id);
                    assert_eq!(data["type"].as_str(), name.as_deref());
                    return Ok(Some(data));
                }
                // A comment or `retry`.
                _ => {}
            }
        }
    }

    /// Events up to and including the first that `last` wants.
    pub fn until(mut self, last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next() {
            let done = last(&event);
            events.push(event);
            if done {
                break;
            }
        }
        events
    }
}
