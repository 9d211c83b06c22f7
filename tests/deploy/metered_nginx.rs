//! deploy/nginx/njs-metered.conf is deploy/nginx/njs.conf with what reports the usage of responses.

use super::{is_generated, read};
use crate::rig::replace_once;

const HOW: &str = "cargo test --test main deploy::metered_nginx";

const TITLE: &str = "\
# nginx in front of an inference server, for limits on tokens and on requests in flight: it asks Tollgate about every request
# through njs, caps requests at what Tollgate holds for them, reads the usage where the response passes, and reports it.
#
# Generated from njs.conf, where every other setting is explained; do not edit.
#
# Tollgate's side:   listen:
#                      http: [ { address: \"unix:/run/tollgate/nginx.sock\", dialect: nginx, body: sent, settlement: reported } ]
#                      settle: { address: \"unix:/run/tollgate/settle.sock\" }
#                    metering: { secrets: [\"file:/run/secrets/metering\"] }       (docs/metering.md)
# To use it, put tollgate.js and metering.js where `js_path` says and change these:
#   unix:/run/tollgate/settle.sock  Tollgate's `listen.settle`
";

const MODULE: &str = r#"    js_import metering from metering.js;
    # Where reports go, and the token of a reporter where Tollgate lists some.
    js_var $tollgate_settle_url   "http://unix:/run/tollgate/settle.sock:/v1/settle";
    js_var $tollgate_settle_token "";
    # A running request is renewed for as long as nginx waits for its response at most (`proxy_read_timeout`). A report waits for
    # Tollgate for as long as Tollgate remembers its request. An entry has about 1 KiB.
    js_shared_dict_zone zone=tollgate_open:16m timeout=600s;
    js_shared_dict_zone zone=tollgate_reports:16m timeout=24h;
    # Evaluated at the end of each request, also of one that is cut. It is empty, so that nothing is written.
    js_set $tollgate_report metering.report;
    access_log /dev/null tollgate if=$tollgate_report;
    js_var $tollgate_reservation  "";
    js_var $tollgate_changed_body "";
    js_var $tollgate_asked        "";
"#;

const HEADERS: &str = r#"            # A compressed response hides its usage.
            proxy_set_header Accept-Encoding         "";
"#;

const READ: &str = r#"            # The bound of the answer, or the wish for usage, is written into the body there.
            error_page 418 = @changed;
            js_body_filter metering.read buffer_type=buffer;
"#;

const PERIODIC: &str = r#"        # The interval of `renew` is below a third of Tollgate's `metering.life`.
        location @tollgate_reports {
            js_periodic metering.settle interval=1s;
            js_periodic metering.renew interval=10s;
            js_fetch_timeout 10s;
        }

"#;

const CHECK: &str = r#"        location = /_tollgate {
            internal;
"#;

const ABORT: &str = r#"            # What a check holds is known to nginx, also where the client is gone: it is reported then.
            proxy_ignore_client_abort on;
"#;

#[test]
fn the_file_for_metered_requests_is_the_shipped_one_with_reports() {
    let text = read("deploy/nginx/njs.conf");
    let (title, rest) = text.split_once("#   0.0.0.0:8080 ").unwrap();
    assert!(title.contains("tollgate.js"), "{title}");
    let text = format!("{TITLE}#   0.0.0.0:8080 {rest}");
    let text = replace_once(text, "    js_import tollgate from tollgate.js;\n", MODULE);
    let text = replace_once(text, "js_access tollgate.check;", "js_access metering.check;");
    let (before, forwarding) =
        text.split_once("            proxy_set_header X-Tollgate-Subject").unwrap();
    let (forwarding, after) = forwarding.split_once("        }\n\n").unwrap();
    let forwarding = format!("            proxy_set_header X-Tollgate-Subject{forwarding}");
    let too_large = "            error_page 413 = @too_large;\n";
    let (headers, proxying) = forwarding.split_once(too_large).unwrap();
    let unexplained = [headers, HEADERS, proxying].concat();
    let unexplained: String = unexplained
        .split_inclusive('\n')
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    let changed = format!(
        "        location @changed {{
            js_body_filter metering.read buffer_type=buffer;
            proxy_set_body $tollgate_changed_body;

{unexplained}        }}

"
    );
    let first = [headers, HEADERS, too_large, READ, proxying, "        }\n\n"].concat();
    let text = [before, &first, &changed, PERIODIC, after].concat();
    let text = replace_once(text, CHECK, &format!("{CHECK}{ABORT}"));
    is_generated("deploy/nginx/njs-metered.conf", &text, HOW);
}
