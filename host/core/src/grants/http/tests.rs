use super::*;

fn pattern(text: &str) -> HttpPattern {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn get(url: &str) -> Destination {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    Destination::parse("GET", scheme, authority, path).unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn patterns_mean_what_they_say() {
    let cases = [
        ("api.example.com", "https://api.example.com/x?y", true),
        ("api.example.com", "https://API.example.com./x", true),
        ("api.example.com", "http://api.example.com/", false),
        ("api.example.com", "https://api.example.com:8443/", false),
        ("api.example.com:*", "https://api.example.com:8443/", true),
        ("http://*:8080", "http://anything:8080/", true),
        ("*.example.com", "https://a.b.example.com/", true),
        ("*.example.com", "https://example.com/", false),
        ("*.example.com", "https://evilexample.com/", false),
        ("POST,PUT api.example.com", "https://api.example.com/", false),
        ("https://a/v1/*", "https://a/v1/x", true),
        ("https://a/v1/*", "https://a/v1", false),
        ("https://a/v1", "https://a/v1?q=1", true),
        ("https://a/v1", "https://a/v1/", false),
        ("https://[2001:DB8::1]", "https://[2001:db8:0::1]/", true),
    ];
    for (text, url, wanted) in cases {
        assert_eq!(pattern(text).matches(&get(url)), wanted, "{text} {url}");
    }
}

#[test]
fn a_path_that_servers_read_differently_matches_no_part_of_them() {
    for path in [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/./x",
        "/v1//x",
        "/v1/%2Fx",
        "/v1/\\x",
        "/v1/..;/x",
        "/v1/%00",
        "/v%31/x",
        "/v1/%zz",
        "/v1/%",
    ] {
        let destination = get(&format!("https://a{path}"));
        assert!(!pattern("https://a/v1/*").matches(&destination), "{path}");
        // For a refusal it is as good as meant.
        assert!(pattern("https://a/v1/*").touches(&destination), "{path}");
        assert!(!pattern("POST https://a/v1/*").touches(&destination), "{path}");
        assert!(!pattern("https://b/v1/*").touches(&destination), "{path}");
        assert!(pattern("https://a").matches(&destination), "{path}");
    }
}

#[test]
fn what_has_two_meanings_is_no_destination() {
    for host in [
        "2130706433",
        "127.1",
        "0x7f.0.0.1",
        "a@b",
        "a b",
        "",
        "a..b",
        "-.",
        "[::1",
        "exämple",
        "a:0",
        "a:65536",
        "a:+1",
    ] {
        assert!(Destination::parse("GET", Scheme::Https, host, "/").is_err() || host == "-.", "{host}");
    }
    for (method, path) in
        [("CONNECT", "/"), ("GE T", "/"), ("GET", "x"), ("GET", "/a b"), ("GET", "/a#b"), ("GET", "/\r\nx")]
    {
        assert!(Destination::parse(method, Scheme::Https, "a", path).is_err(), "{method} {path}");
    }
}

#[test]
fn texts_that_are_no_pattern_are_refused() {
    for text in [
        "",
        "ftp://a",
        "GET  https://a",
        "g*t https://a",
        "https://a/*/b",
        "https://a/?q",
        "https://a/../b",
        "https://a:x",
        "*.",
        "https://",
    ] {
        assert!(text.parse::<HttpPattern>().is_err(), "{text}");
    }
    for text in ["https://a", "GET,POST https://*.a.b:8443/x/*", "http://*:*", "https://[::1]:8/y"] {
        assert_eq!(pattern(text).to_string(), text);
    }
}

/// What the intersection means is what both mean.
#[test]
fn an_intersection_means_what_both_mean() {
    let hosts = ["*", "*.b", "*.a.b", "a.b", "x.a.b", "c"];
    let paths = ["", "/v1/*", "/v1/x", "/v2/*"];
    let methods = ["", "GET ", "GET,PUT ", "PUT "];
    let all: Vec<_> = methods
        .iter()
        .flat_map(|method| {
            hosts.iter().flat_map(move |host| paths.map(move |path| format!("{method}https://{host}{path}")))
        })
        .map(|text| pattern(&text))
        .collect();
    let requests: Vec<_> = ["a.b", "x.a.b", "y.b", "c"]
        .iter()
        .flat_map(|host| ["/", "/v1/x", "/v1/y", "/v2/x"].map(move |path| get(&format!("https://{host}{path}"))))
        .collect();
    for one in &all {
        for two in &all {
            let both = one.intersect(two);
            for request in &requests {
                let wanted = one.matches(request) && two.matches(request);
                assert_eq!(
                    both.as_ref().is_some_and(|both| both.matches(request)),
                    wanted,
                    "{one} & {two}: {request:?}"
                );
            }
        }
    }
}

#[test]
fn a_pattern_of_a_request_means_that_request_alone() {
    for path in ["/repos/*", "/*", "/a*b", "/x"] {
        let destination = get(&format!("https://a{path}"));
        let text = HttpPattern::exactly(&destination).to_string();
        let again = pattern(&text);
        assert!(again.matches(&destination), "{text}");
        assert!(!again.matches(&get("https://a/repos/b")) && !again.matches(&get("https://a/")), "{text}");
    }
    assert!(Destination::parse("*", Scheme::Https, "a", "/").is_err());
}
