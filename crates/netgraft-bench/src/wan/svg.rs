//! A chart of the ratios.

use std::fmt::Write;

use super::report::Report;

const LEFT: f64 = 400.0;
const WIDTH: f64 = 360.0;
const ROW: f64 = 20.0;
const TOP: f64 = 60.0;
/// The largest ratio that the chart shows as it is.
const MOST: f64 = 1.5;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A bar for each ratio, from 0 to 1.5, with the whole range of the rounds as a thin line, and the line of 1.
pub(super) fn chart(report: &Report) -> String {
    let rows: Vec<_> = report.results.iter().filter_map(|entry| Some((entry, entry.ratio?))).collect();
    let height = TOP + ROW * rows.len() as f64 + 30.0;
    let (width, place) = (LEFT + WIDTH + 120.0, |ratio: f64| LEFT + ratio.clamp(0.0, MOST) / MOST * WIDTH);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" \
         font-size=\"14\">Speed against the kernel with the same congestion control (median and range of {} rounds)\
         </text>\n<text x=\"10\" y=\"38\" fill=\"#666\">{}</text>",
        report.rounds,
        escape(&report.command),
    );
    for (number, (entry, ratio)) in rows.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let color = if ratio.median >= 0.9 { "#2a7f3f" } else { "#c0392b" };
        let name = escape(&format!("{}: {}", entry.network, entry.case));
        let (end, low, high) = (place(ratio.median), place(ratio.min), place(ratio.max));
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" fill=\"{color}\"/>\n\
             <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"black\"/>\n\
             <text x=\"{}\" y=\"{}\">{:.2}</text>",
            LEFT - 6.0,
            y + 11.0,
            end - LEFT,
            y + 7.0,
            y + 7.0,
            LEFT + WIDTH + 10.0,
            y + 11.0,
            ratio.median,
        );
    }
    for mark in [0.0, 0.5, 0.9, 1.0, 1.5] {
        let (x, bottom) = (place(mark), height - 24.0);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"#999\" \
             stroke-dasharray=\"3 3\"/>\n<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{mark}</text>",
            TOP - 6.0,
            bottom + 14.0,
        );
    }
    text.push_str("</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::report::tests::report;

    #[test]
    fn a_chart_has_a_bar_for_each_ratio_and_is_well_formed() {
        let chart = chart(&report());
        assert!(chart.starts_with("<svg ") && chart.ends_with("</svg>\n"));
        assert_eq!(chart.matches("fill=\"#2a7f3f\"").count(), 1);
        assert_eq!(chart.matches("fill=\"#c0392b\"").count(), 1);
        assert!(chart.contains(">0.90</text>") && chart.contains(">0.65</text>"));
        // Whatever is in a command or a line's name, it is text.
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
        assert_eq!(chart.matches("<text").count(), chart.matches("</text>").count());
    }
}
