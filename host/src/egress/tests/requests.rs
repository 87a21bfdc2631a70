//! What is sent, and what is refused before it is.

use tokio::sync::mpsc;

use super::*;

/// A server that reports all that it reads, until it is quiet, and answers.
async fn recording() -> (Server, mpsc::UnboundedReceiver<String>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = Server::start(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut read = vec![0; 65536];
            let mut all = String::new();
            while let Ok(Ok(length @ 1..)) =
                tokio::time::timeout(Duration::from_millis(200), stream.read(&mut read)).await
            {
                all.push_str(&String::from_utf8_lossy(&read[..length]));
            }
            let _ = sender.send(all);
            let _ = stream.write_all(OK.as_bytes()).await;
        }
    })
    .await;
    (server, receiver)
}

#[tokio::test]
async fn a_request_is_sent_as_it_is_without_fields_of_one_connection() {
    let ((server, mut seen), egress) = (recording().await, egress());
    let request = OutgoingRequest {
        method: "POST".into(),
        header: fields(&[
            ("Host", "other.example"),
            ("X-One", "1"),
            ("Connection", "x-named, keep-alive"),
            ("X-Named", "1"),
            ("Proxy-Authorization", "secret"),
            ("Upgrade", "websocket"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "gzip, chunked"),
            ("x-one", "2"),
        ]),
        body: body(&["abc", "de"]),
        ..server.get("//a/../b?c=%0d%0a&d=http://x")
    };
    assert_eq!(fetch(&egress, request).await, "ok");
    let expected = format!(
        "POST //a/../b?c=%0d%0a&d=http://x HTTP/1.1\r\nx-one: 1\r\nx-one: 2\r\nhost: {}\r\n\
         transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        server.address
    );
    assert_eq!(seen.recv().await.expect("a request"), expected);

    let request = OutgoingRequest {
        method: "PUT".into(),
        header: fields(&[("content-length", "005")]),
        body: body(&["abc", "de"]),
        ..server.get("/")
    };
    assert_eq!(fetch(&egress, request).await, "ok");
    let seen = seen.recv().await.expect("a request");
    assert!(seen.contains("content-length: 5\r\n") && seen.ends_with("\r\n\r\nabcde"), "{seen}");
}

#[tokio::test]
async fn a_body_that_disagrees_with_its_length_smuggles_nothing() {
    const SECOND: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let ((server, mut seen), egress) = (recording().await, egress());
    let request = |length: &str, pieces: &[&'static str]| OutgoingRequest {
        method: "POST".into(),
        header: fields(&[("content-length", length)]),
        body: body(pieces),
        ..server.get("/")
    };
    // Too long in one piece, and too short.
    for bad in [request("3", &["abcGET /smuggled"]), request("100", &["abc"])] {
        assert_eq!(failure(&egress, bad).await, EgressError::InvalidRequest);
        assert!(!seen.recv().await.expect("a head").contains("smuggled"));
    }
    // Too long by whole pieces: what is over stays here, and the next request is whole.
    let _ = egress.send(request("3", &["abc", SECOND])).await;
    let sent = seen.recv().await.expect("a request");
    assert!(sent.ends_with("\r\n\r\nabc"), "{sent}");
    let _ = egress.send(request("0", &[SECOND])).await;
    let sent = seen.recv().await.expect("a request");
    assert!(sent.contains("content-length: 0\r\n") && sent.ends_with("\r\n\r\n"), "{sent}");
    assert!(!sent.contains("smuggled"), "{sent}");
}

#[tokio::test]
async fn what_can_not_be_sent_is_refused() {
    let (server, egress) = (Server::answering(OK).await, egress());
    let method = |method: &str| OutgoingRequest { method: method.into(), ..server.get("/") };
    let header = |name: &str, value: &str| OutgoingRequest { header: fields(&[(name, value)]), ..server.get("/") };
    let refused = [
        method("CONNECT"),
        method("connect"),
        method(""),
        method("GET /smuggled HTTP/1.1\r\nx:"),
        method("G T"),
        server.get(""),
        server.get("*"),
        server.get("a"),
        server.get("http://other.example/"),
        server.get("/a b"),
        server.get("/a HTTP/1.1\r\nx: y"),
        server.get("/a#b"),
        server.get("/\u{e4}"),
        server.get("/\0"),
        header("a", "b\r\nc: d"),
        header("a", "b\nc: d"),
        header("a\r\nb", "c"),
        header("a b", "c"),
        header("", "c"),
        header("content-length", "4, 4"),
        // A length, and no body.
        header("content-length", "4"),
        OutgoingRequest { header: fields(&[("a", "b"); 129]), ..server.get("/") },
        OutgoingRequest {
            header: fields(&[("content-length", "1"), ("content-length", "1")]),
            body: body(&["a"]),
            ..server.get("/")
        },
    ];
    for (number, request) in refused.into_iter().enumerate() {
        assert_eq!(failure(&egress, request).await, EgressError::InvalidRequest, "number {number}");
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn a_redirect_is_a_response() {
    let target = Server::answering(OK).await;
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n", target.address);
    let (server, egress) = (Server::answering(answer).await, egress());
    let response = egress.send(server.get("/")).await.expect("a response");
    assert_eq!(response.status, 302);
    assert!(response.header.iter().any(|(name, value)| name == "location" && value.ends_with(b"/")));
    assert_eq!((text(response).await.as_deref(), target.accepted()), (Ok(""), 0));
}

#[tokio::test]
async fn a_response_comes_without_fields_of_one_connection_and_as_it_was_encoded() {
    let answer = "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b\r\nConnection: x-named\r\nX-Named: 1\r\n\
                  Keep-Alive: 5\r\nUpgrade: h2c\r\ncontent-encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n\
                  2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n";
    let (server, egress) = (Server::answering(answer).await, egress());
    let response = egress.send(server.get("/")).await.expect("a response");
    assert_eq!(response.header, fields(&[("set-cookie", "a"), ("set-cookie", "b"), ("content-encoding", "gzip")]));
    assert_eq!(text(response).await.as_deref(), Ok("ok"));
}
