//! Looks for a network. Wanted: `succeeded`, with `escaped` false: every
//! attempt refused, at once.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::Outcome;
use hostile::Attempts;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Network};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::udp_create_socket::create_udp_socket;

hostile::attacks!("network", run);

fn run(attack: &str) -> Outcome {
    let mut attempts = Attempts::default();
    let network = instance_network();
    match attack {
        "tcp" => {
            for (what, address) in
                [("loopback", [127, 0, 0, 1]), ("metadata", [169, 254, 169, 254]), ("public", [192, 0, 2, 1])]
            {
                attempts.must_fail(&format!("connect to {what}"), connect(&network, address));
            }
            attempts.must_fail("listen", listen(&network));
        }
        "udp" => {
            attempts.must_fail("bind", udp(&network, false));
            attempts.must_fail("send", udp(&network, true));
        }
        "dns" => {
            for name in ["localhost", "example.com", "169.254.169.254"] {
                attempts.must_fail(&format!("resolve {name}"), resolve(&network, name));
            }
        }
        _ => return hostile::unknown(attack),
    }
    attempts.finish()
}

fn address([a, b, c, d]: [u8; 4], port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
}

fn connect(network: &Network, to: [u8; 4]) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(network, address(to, 80))?;
    socket.subscribe().block();
    socket.finish_connect().map(drop)
}

fn listen(network: &Network) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(network, address([127, 0, 0, 1], 0))?;
    socket.subscribe().block();
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.subscribe().block();
    socket.finish_listen()
}

fn udp(network: &Network, send: bool) -> Result<(), ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(network, address([127, 0, 0, 1], 0))?;
    socket.subscribe().block();
    socket.finish_bind()?;
    if send {
        let (_, out) = socket.stream(None)?;
        out.subscribe().block();
        out.check_send()?;
        let datagram = OutgoingDatagram { data: vec![0], remote_address: Some(address([127, 0, 0, 1], 53)) };
        out.send(&[datagram])?;
    }
    Ok(())
}

fn resolve(network: &Network, name: &str) -> Result<(), ErrorCode> {
    let addresses = resolve_addresses(network, name)?;
    addresses.subscribe().block();
    addresses.resolve_next_address().map(drop)
}
