//! Connections that are kept, and how many there may be.

use super::*;

#[tokio::test]
async fn a_connection_serves_its_user_again_and_nobody_else() {
    let (server, egress) = (Server::answering(OK).await, egress());
    for _ in 0..3 {
        assert_eq!(fetch(&egress, server.get("/")).await, "ok");
    }
    assert_eq!(server.accepted(), 1);
    for (accepted, other) in [(2, user(1, 2)), (3, user(2, 1))] {
        fetch(&egress, OutgoingRequest { owner: other, ..server.get("/") }).await;
        assert_eq!(server.accepted(), accepted);
        // Each still has its own.
        fetch(&egress, OutgoingRequest { owner: other, ..server.get("/") }).await;
        fetch(&egress, server.get("/")).await;
        assert_eq!(server.accepted(), accepted);
    }
}

#[tokio::test]
async fn a_connection_serves_no_request_that_could_not_have_made_it() {
    let server = Server::answering(OK).await;
    let port = server.address.port();
    let egress = HttpEgress::with_resolver(config(), Names::of("a.example", &[&["127.0.0.1"]])).expect("set up");
    for host in ["a.example", "127.0.0.1"] {
        fetch(&egress, get(host, port, "/")).await;
        let accepted = server.accepted();
        // The same tenant, name and port, while a connection lies ready.
        for nets in [&[][..], &["10.0.0.0/8"], &["127.0.0.2/32"]] {
            let request = OutgoingRequest { private: private(nets), ..get(host, port, "/") };
            assert_eq!(failure(&egress, request).await, EgressError::AddressForbidden);
        }
        // Allowed by another list: another connection, to be on the safe side.
        let request = OutgoingRequest { private: private(&["127.0.0.1/32"]), ..get(host, port, "/") };
        fetch(&egress, request).await;
        assert_eq!(server.accepted(), accepted + 1);
    }
}

#[tokio::test]
async fn the_order_of_the_networks_makes_no_difference() {
    let (server, egress) = (Server::answering(OK).await, egress());
    for nets in [&["127.0.0.0/8", "10.0.0.0/8"][..], &["10.0.0.0/8", "127.0.0.0/8", "10.0.0.0/8"]] {
        fetch(&egress, OutgoingRequest { private: private(nets), ..server.get("/") }).await;
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_ended_costs_nothing() {
    let (server, egress) = (Server::answering_once(OK).await, egress());
    for _ in 0..5 {
        let request = OutgoingRequest { method: "POST".into(), body: body(&[]), ..server.get("/") };
        assert_eq!(fetch(&egress, request).await, "ok");
    }
    assert_eq!(server.accepted(), 5);
}

#[tokio::test]
async fn a_request_that_was_written_is_not_sent_again() {
    // Answers the first request of a connection and ends it at the second.
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let server = Server::start(move |mut stream| {
        let requests = Arc::clone(&counter);
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(OK.as_bytes()).await;
            if !head(&mut stream).await.is_empty() {
                requests.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let egress = egress();
    fetch(&egress, server.get("/")).await;
    let request = OutgoingRequest { method: "POST".into(), ..server.get("/") };
    assert_eq!(failure(&egress, request).await, EgressError::ConnectionTerminated);
    assert_eq!((requests.load(Ordering::SeqCst), server.accepted()), (1, 1));
}

/// A server that counts the connections that are open.
async fn counting() -> (Server, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&open);
    let server = Server::start(move |mut stream| {
        let open = Arc::clone(&counter);
        async move {
            open.fetch_add(1, Ordering::SeqCst);
            while !head(&mut stream).await.is_empty() {
                let _ = stream.write_all(OK.as_bytes()).await;
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    (server, open)
}

#[tokio::test]
async fn idle_connections_end_after_a_while_and_when_the_network_is_closed() {
    let (server, open) = counting().await;
    let brief = EgressConfig { idle_timeout: Duration::from_millis(200), ..config() };
    let egress = HttpEgress::new(brief).expect("set up");
    fetch(&egress, server.get("/")).await;
    assert_eq!(open.load(Ordering::SeqCst), 1);
    eventually(|| open.load(Ordering::SeqCst) == 0).await;

    let closed = super::egress();
    fetch(&closed, server.get("/")).await;
    closed.close().await;
    eventually(|| open.load(Ordering::SeqCst) == 0).await;

    let dropped = super::egress();
    fetch(&dropped, server.get("/")).await;
    drop(dropped);
    eventually(|| open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn only_so_many_destinations_are_remembered() {
    let (server, open) = counting().await;
    let egress = HttpEgress::new(EgressConfig { max_destinations: 2, ..config() }).expect("set up");
    for number in 1..=5 {
        fetch(&egress, OutgoingRequest { owner: user(1, number), ..server.get("/") }).await;
    }
    eventually(|| open.load(Ordering::SeqCst) == 2).await;
}

/// A server that sends a head and no body.
async fn holding() -> Server {
    Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await
}

#[tokio::test]
async fn who_has_as_many_connections_as_are_left_gets_no_more() {
    let server = holding().await;
    let limits = EgressConfig { max_connections: 6, max_connections_per_tenant: 4, ..config() };
    let egress = HttpEgress::new(limits).expect("set up");
    let of = |owner| OutgoingRequest { owner, ..server.get("/") };
    let of_tenant = |used| EgressError::NoConnection { between: Sharers::Users, most: 4, used };
    let of_all = |used| EgressError::NoConnection { between: Sharers::Tenants, most: 6, used };
    let mut held = Vec::new();
    for (owner, has, refused) in [
        // Of four, two are left; then one, which is what it has.
        (user(1, 1), 2, of_tenant(2)),
        (user(1, 2), 1, of_tenant(1)),
        // One is left to its tenant, which has three of six.
        (user(1, 3), 0, of_all(3)),
        (user(2, 1), 2, of_tenant(2)),
        // The last one, for who has none.
        (user(3, 1), 1, of_all(1)),
        (user(4, 1), 0, of_all(0)),
    ] {
        for _ in 0..has {
            held.push(egress.send(of(owner)).await.expect("a place"));
        }
        assert_eq!(failure(&egress, of(owner)).await, refused);
    }
    assert_eq!(server.accepted(), 6);
    // Who leaves makes room.
    held.remove(0);
    held.push(egress.send(of(user(4, 1))).await.expect("a place"));
}

#[tokio::test]
async fn a_name_that_is_being_resolved_counts_even_if_nobody_waits() {
    let limits = EgressConfig { max_connections: 1, ..config() };
    let egress = HttpEgress::with_resolver(limits, Arc::new(Never)).expect("set up");
    let mut request = get("a.example", 80, "/");
    request.timeouts.connect = Duration::from_millis(50);
    assert_eq!(failure(&egress, request).await, EgressError::ConnectionTimeout);
    let full = EgressError::NoConnection { between: Sharers::Tenants, most: 1, used: 1 };
    assert_eq!(failure(&egress, get("b.example", 80, "/")).await, full);
}

#[tokio::test]
async fn closing_the_network_cuts_what_comes_and_does_not_end_it() {
    let (server, egress) = (holding().await, egress());
    let response = egress.send(server.get("/")).await.expect("a response");
    egress.close().await;
    assert_eq!(text(response).await, Err(EgressError::ConnectionTerminated));
    assert!(egress.send(server.get("/")).await.is_err());
}

#[tokio::test]
async fn idle_connections_make_room() {
    let ((idle, open), wanted) = (counting().await, Server::answering(OK).await);
    for (most, per_tenant, asking) in [(1, 1, 1), (5, 1, 1), (1, 1, 2)] {
        let limits = EgressConfig { max_connections: most, max_connections_per_tenant: per_tenant, ..config() };
        let egress = HttpEgress::new(limits).expect("set up");
        fetch(&egress, idle.get("/")).await;
        assert_eq!(open.load(Ordering::SeqCst), 1);
        assert_eq!(fetch(&egress, OutgoingRequest { owner: user(asking, 1), ..wanted.get("/") }).await, "ok");
        eventually(|| open.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn values_that_make_no_sense_are_refused() {
    for bad in [
        EgressConfig { max_connections: 0, ..config() },
        EgressConfig { max_connections_per_tenant: 0, ..config() },
        EgressConfig { max_destinations: 0, ..config() },
        EgressConfig { max_head_bytes: 8191, ..config() },
        EgressConfig { max_header_fields: 0, ..config() },
        EgressConfig { max_header_fields: 4097, ..config() },
        EgressConfig { ca_file: Some("/nonexistent.pem".into()), ..config() },
        EgressConfig { ca_file: Some("/dev/null".into()), ..config() },
    ] {
        assert!(HttpEgress::new(bad.clone()).is_err(), "{bad:?}");
    }
}
