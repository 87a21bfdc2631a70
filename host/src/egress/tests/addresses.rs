//! Where requests may lead.

use super::*;

#[tokio::test]
async fn loopback_is_reached_only_if_it_is_named() {
    let (server, egress) = (Server::answering(OK).await, egress());
    for nets in [&[][..], &["10.0.0.0/8"], &["127.0.0.2/32"]] {
        let request = OutgoingRequest { private: private(nets), ..server.get("/") };
        assert_eq!(failure(&egress, request).await, EgressError::AddressForbidden);
    }
    assert_eq!(server.accepted(), 0);
    let response = egress.send(server.get("/")).await.expect("a response");
    assert_eq!((response.status, response.address), (200, "127.0.0.1".parse().expect("an address")));
    assert_eq!(text(response).await.expect("a body"), "ok");
}

#[tokio::test]
async fn literals_are_judged_like_names() {
    let (server, egress) = (Server::answering(OK).await, egress());
    let port = server.address.port();
    let hosts = [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "fd00:ec2::254",
        "fe80::1",
    ];
    for host in hosts {
        let request = OutgoingRequest { private: private(&[]), ..get(host, port, "/") };
        assert_eq!(failure(&egress, request).await, EgressError::AddressForbidden, "{host}");
    }
    // A network that is named opens itself, and no other way to write it.
    for host in ["0.0.0.0", "::", "::ffff:127.0.0.1", "169.254.169.254"] {
        assert_eq!(failure(&egress, get(host, port, "/")).await, EgressError::AddressForbidden, "{host}");
    }
    for host in ["2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0x7f000001", "LOCALHOST", "localhost.", "[::1]"] {
        assert_eq!(failure(&egress, get(host, port, "/")).await, EgressError::InvalidRequest, "{host}");
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn one_private_address_among_public_ones_is_refused() {
    let server = Server::answering(OK).await;
    for answer in [&["8.8.8.8", "127.0.0.1"][..], &["127.0.0.1", "8.8.8.8"], &["::ffff:127.0.0.1"]] {
        let names = Names::of("a.example", &[answer]);
        let egress = HttpEgress::with_resolver(config(), names).expect("set up");
        let request = OutgoingRequest { private: private(&[]), ..get("a.example", server.address.port(), "/") };
        assert_eq!(failure(&egress, request).await, EgressError::AddressForbidden, "{answer:?}");
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_gains_nothing() {
    let server = Server::answering(OK).await;
    let port = server.address.port();
    let nets = || private(&["127.0.0.1/32"]);
    let names = Names::of("a.example", &[&["127.0.0.1"], &["127.0.0.2"]]);
    let egress = HttpEgress::with_resolver(config(), Arc::clone(&names) as _).expect("set up");
    let request = OutgoingRequest { private: nets(), ..get("a.example", port, "/") };
    // What was checked is what was connected to: the second answer is never asked for.
    assert_eq!(fetch(&egress, request).await, "ok");
    assert_eq!(names.asked(), 1);
    // Nor by a request that finds the connection kept.
    let request = OutgoingRequest { private: nets(), ..get("a.example", port, "/") };
    assert_eq!(fetch(&egress, request).await, "ok");
    assert_eq!((names.asked(), server.accepted()), (1, 1));
    // A new connection is judged by the new answer.
    let request = OutgoingRequest { owner: user(2, 1), private: nets(), ..get("a.example", port, "/") };
    assert_eq!(failure(&egress, request).await, EgressError::AddressForbidden);
    assert_eq!((names.asked(), server.accepted()), (2, 1));
}

#[tokio::test]
async fn names_without_an_address() {
    let egress = HttpEgress::with_resolver(config(), Names::of("empty.example", &[&[]])).expect("set up");
    for name in ["empty.example", "other.example"] {
        assert_eq!(failure(&egress, get(name, 80, "/")).await, EgressError::Dns, "{name}");
    }
}

#[tokio::test]
async fn the_resolver_of_the_machine_is_judged_too() {
    let (server, egress) = (Server::answering(OK).await, egress());
    let request = OutgoingRequest { private: private(&[]), ..get("localhost", server.address.port(), "/") };
    assert_eq!(failure(&egress, request).await, EgressError::AddressForbidden);
    let nets = private(&["127.0.0.0/8", "::1/128"]);
    let request = OutgoingRequest { private: nets, ..get("localhost", server.address.port(), "/") };
    assert_eq!(fetch(&egress, request).await, "ok");
}

#[tokio::test]
async fn the_next_address_is_tried_and_nobody_there_is_said() {
    let server = Server::answering(OK).await;
    let port = server.address.port();
    let names = Names::of("a.example", &[&["127.0.0.2", "127.0.0.1"], &["127.0.0.2", "127.0.0.3"]]);
    let egress = HttpEgress::with_resolver(config(), names).expect("set up");
    let response = egress.send(get("a.example", port, "/")).await.expect("a response");
    assert_eq!(response.address.to_string(), "127.0.0.1");
    let request = OutgoingRequest { owner: user(2, 1), ..get("a.example", port, "/") };
    assert_eq!(failure(&egress, request).await, EgressError::ConnectionRefused);
}
