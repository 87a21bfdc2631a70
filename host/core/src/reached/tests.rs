use super::*;
use crate::outcome::Fault;

/// Every message names the limit, its value, what was used, and how to raise it.
#[test]
fn every_limit_of_a_call_says_all_there_is_to_say() {
    let limits = Limits::default();
    for spec in Limits::SPECS {
        let (name, value, unit) = (spec.name, spec.default, spec.unit);
        assert!(spec.told.contains("{used}"), "`{name}` does not tell what was used");
        let named = format!("the limit `{name}` of this call is {value} {unit}. ");
        let remedy = match spec.default == spec.max {
            true => "Ask for less: no server may allow more.".to_owned(),
            false => format!("raise it: `limits.{name}` in the request"),
        };
        let event = limits.reached(name, Some(4_711));
        assert_eq!((&*event.limit, event.value, event.used), (name, value, Some(4_711)));
        let fault = Fault::limit("limit.of_the_test", name, &limits, 4_711);
        let hit = fault.limit.expect("a limit");
        assert_eq!((&*hit.name, hit.value, &*hit.unit), (name, value, unit));
        for message in [event.message, fault.message] {
            assert!(message.contains("4711") && !message.contains("{used}"), "{message}");
            assert!(message.contains(&named) && message.contains(&remedy), "{message}");
        }
        let unknown = limits.reached(name, None);
        assert!(unknown.message.contains(&format!("more than {value}")), "{}", unknown.message);
    }
}

#[test]
fn every_limit_of_the_server_says_so_too() {
    for ServerLimit { name, unit, told, remedy, .. } in SERVER {
        let message = words(name, 5, 4_711);
        let named = format!("the limit `{name}` of this server is 5 {unit}. ");
        assert!(message.contains(&named) && message.ends_with("in bulkhead.toml."), "{message}");
        assert_eq!(told.is_empty(), remedy.is_empty(), "{name}");
        // What other calls hold of a worker's is not known where it is refused, and an
        // import ends at its limit: nobody knows what it would have come to.
        let tells_used = !told.is_empty() && *name != "workers.memory_per_worker_bytes" && !name.starts_with("import.");
        assert_eq!(message.contains("4711"), tells_used, "{message}");
    }
    for (name, remedy) in [
        ("workspace_bytes", "make the task with a higher `limits.workspace_bytes`"),
        ("quota.workspace_bytes_per_user", "raise `quota.workspace_bytes_per_user` in bulkhead.toml"),
    ] {
        let words = Bound { name, value: 5, used: Some(4_711) }.in_words();
        assert!(words.contains(&format!("`{name}` is 5 bytes, of which 4711 are used; delete")), "{words}");
        assert!(words.contains(remedy), "{words}");
    }
    let stack = words(STACK.spec.name, STACK.spec.default, STACK.spec.default);
    assert!(stack.contains("all 524288 bytes"), "{stack}");
}

#[test]
fn what_is_fixed_says_that_it_is_and_what_helps() {
    for FixedLimit { spec, of, remedy } in FIXED {
        let reached = Limits::MAX.reached(spec.name, Some(4_711));
        assert_eq!((&*reached.limit, reached.value), (spec.name, spec.default));
        let named = format!("the limit `{}` of {of} is {} {}. ", spec.name, spec.default, spec.unit);
        let message = reached.message;
        assert!(message.contains("4711") && message.contains(&named), "{message}");
        assert!(message.ends_with(&format!("It can't be raised: {remedy}.")), "{message}");
    }
}
