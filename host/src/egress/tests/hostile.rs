//! Servers that misbehave, or are slow.

use super::*;

#[tokio::test]
async fn a_head_has_an_end() {
    let egress = egress();
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(100_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "a: b\r\n".repeat(200));
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(1_000_000));
    for answer in [long, many, endless] {
        let server = Server::answering(answer).await;
        assert_eq!(failure(&egress, server.get("/")).await, EgressError::ResponseHeadTooLarge);
    }
    let small = HttpEgress::new(EgressConfig { max_head_bytes: 8192, ..config() }).expect("set up");
    let fits = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "a".repeat(7000));
    assert_eq!(fetch(&small, Server::answering(fits).await.get("/")).await, "ok");
    let over = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "a".repeat(8192));
    assert_eq!(failure(&small, Server::answering(over).await.get("/")).await, EgressError::ResponseHeadTooLarge);
}

#[tokio::test]
async fn what_is_not_http_is_said_to_be_none() {
    let egress = egress();
    for answer in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "rubbish\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
    ] {
        let server = Server::answering_once(answer).await;
        assert_eq!(failure(&egress, server.get("/")).await, EgressError::Protocol, "{answer:?}");
    }
    // Spoken before anybody asked.
    let server = Server::start(async |mut stream: TcpStream| {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        head(&mut stream).await;
    })
    .await;
    assert_eq!(failure(&egress, server.get("/")).await, EgressError::Protocol);
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_is_no_end() {
    let egress = egress();
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nx:",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nok",
    ] {
        let server = Server::answering_once(answer).await;
        assert_eq!(failure(&egress, server.get("/")).await, EgressError::ConnectionTerminated, "{answer:?}");
    }
    // Cut by a reset.
    let server = Server::start(async |mut stream: TcpStream| {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok").await;
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
    })
    .await;
    assert_eq!(failure(&egress, server.get("/")).await, EgressError::ConnectionTerminated);
}

#[tokio::test]
async fn without_a_length_the_end_of_the_connection_is_the_end() {
    let (server, egress) = (Server::answering_once("HTTP/1.1 200 OK\r\n\r\nok").await, egress());
    assert_eq!(fetch(&egress, server.get("/")).await, "ok");
}

fn short(request: OutgoingRequest, set: fn(&mut Timeouts) -> &mut Duration) -> OutgoingRequest {
    let mut request = request;
    *set(&mut request.timeouts) = Duration::from_millis(150);
    request
}

#[tokio::test]
async fn each_step_has_its_time() {
    let silent = Server::start(async |mut stream: TcpStream| {
        head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let slow_body = Server::start(async |mut stream: TcpStream| {
        head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok").await;
        std::future::pending::<()>().await;
    })
    .await;
    let egress = egress();
    let unresolved = HttpEgress::with_resolver(config(), Arc::new(Never)).expect("set up");
    let request = short(get("a.example", 80, "/"), |timeouts| &mut timeouts.connect);
    assert_eq!(failure(&unresolved, request).await, EgressError::ConnectionTimeout);
    // The handshake of TLS is part of connecting.
    let request = OutgoingRequest { scheme: Scheme::Https, ..silent.get("/") };
    let request = short(request, |timeouts| &mut timeouts.connect);
    assert_eq!(failure(&egress, request).await, EgressError::ConnectionTimeout);
    let request = short(silent.get("/"), |timeouts| &mut timeouts.first_byte);
    assert_eq!(failure(&egress, request).await, EgressError::ResponseTimeout);
    let response = egress.send(short(slow_body.get("/"), |timeouts| &mut timeouts.between_bytes)).await;
    let mut body = response.expect("a response").body;
    assert_eq!(body.next().await, Some(Ok(Bytes::from_static(b"ok"))));
    assert_eq!(body.next().await, Some(Err(EgressError::ResponseTimeout)));
    assert_eq!(body.next().await, None);
}

#[tokio::test]
async fn the_configuration_bounds_connecting_too() {
    let silent = Server::start(async |_stream: TcpStream| std::future::pending::<()>().await).await;
    let config = EgressConfig { connect_timeout: Duration::from_millis(150), ..config() };
    let egress = HttpEgress::new(config).expect("set up");
    let request = OutgoingRequest { scheme: Scheme::Https, ..silent.get("/") };
    assert_eq!(failure(&egress, request).await, EgressError::ConnectionTimeout);
}
