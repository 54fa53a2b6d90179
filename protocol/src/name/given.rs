//! Given names: the first of them, and the form that stands for it and its short forms.
//! It must not hold anything but forms of one name: whoever shares a line here is told apart by the confirmers alone.

use alloc::vec::Vec;

use super::surname::TRANSLITERATED;
use super::{Word, attach, head_of, joined, new_word, words};
use crate::Refusal;

/// Words that belong to the word after them.
const PARTICLES: [&str; 10] = ["ABD", "ABDAL", "ABDEL", "ABDUL", "ABU", "AL", "D", "SAINT", "ST", "UMM"];

/// The line of [`TRANSLITERATED`] whose names are given before the one that somebody is called by.
const BEFORE_THE_CALL_NAME: &str = "MUHAMMAD";

/// British names with their short and other forms; the first stands for all. Names that share a short form share a
/// line. No form stands in two lines.
const FORMS: [&str; 172] = [
    "ABIGAIL ABBY ABBIE ABBEY ABI",
    "ADRIAN ADE",
    "AGNES AGGIE",
    "ALASTAIR ALISTAIR ALASDAIR ALISTER ALASTER",
    "ALBERT ALBIE BERT BERTIE",
    "ALEXANDER ALEX ALEXANDRA ALEC SANDY SASHA XANDER LEXI LEXIE ALEXA ALEKSANDER ALEKSANDRA",
    "ALFRED ALF ALFIE FRED FREDDIE FREDDY FREDERICK FREDRICK FREDERIC",
    "ALISON ALLISON",
    "AMANDA MANDY",
    "AMELIA EMELIA AMELIE MILLIE MILLY MILLICENT CAMILLA",
    "ANDREW ANDY DREW",
    "ANNE ANN ANNIE",
    "ANNA ANA",
    "ANTHONY ANTONY TONY ANTONI",
    "ARCHIBALD ARCHIE ARCHY",
    "BARBARA BARB BABS",
    "BENJAMIN BEN BENNY BENJI BENEDICT",
    "BERNARD BERNIE",
    "BRADLEY BRAD",
    "CAITLIN KAITLIN KAITLYN CAITLYN KATELYN",
    "CALLUM CALUM CAL",
    "CAMERON CAM",
    "CAROLINE CAROL CAROLYN CARRIE",
    "CASSANDRA CASSIE CASS",
    "CATHERINE KATHERINE KATHARINE CATHARINE KATHRYN CATHRYN KATE KATIE KATY CATHY KATHY KATHLEEN CATHLEEN CAT KAT KITTY KATARZYNA",
    "CHARLES CHARLIE CHARLEY CHARLOTTE LOTTIE CHARLI",
    "CHLOE KHLOE",
    "CHRISTOPHER CHRIS CHRISTIAN CHRISTINE CHRISTINA KRIS KRISTIAN KRISTINA CHRISSIE CHRISSY KRZYSZTOF",
    "CLAIRE CLARE",
    "CONNOR CONOR CONNER",
    "DANIEL DAN DANNY DANI DANIELLE DANIELLA DANIELA",
    "DANYAL DANIYAL DANIAL",
    "DAVID DAVE DAVEY DAVY",
    "DEBORAH DEBBIE DEBRA DEB",
    "DOMINIC DOM DOMINIK DOMINICK",
    "DONALD DON DONNIE",
    "DOROTHY DOT DOTTY DOTTIE DOLLY",
    "DOUGLAS DOUG DOUGIE",
    "DYLAN DILAN DILLON",
    "EDWARD ED EDDIE EDDY TED TEDDY NED EDMUND EDWIN",
    "ELEANOR ELLIE ELLY ELINOR NELL NELLIE ELLEN ELLA",
    "ELIZABETH LIZ LIZZIE LIZZY ELIZA LISA BETH BETTY BETSY BESS BESSIE LIBBY ELISABETH ELSIE BETHANY BETHAN",
    "EMILY EMILIA EMILIE EM",
    "EMMA EMMIE",
    "ERIC ERIK",
    "EWAN EUAN EWEN",
    "EVELYN EVIE EVA EVE",
    "FLORENCE FLO FLOSSIE FLORRIE",
    "FRANCIS FRANK FRANKIE FRAN FRANCES FRANCESCA",
    "FINLEY FINLAY FIN FINN",
    "GABRIEL GABE GABBY GABRIELLE GABRIELLA GABI",
    "GEOFFREY GEOFF JEFF JEFFREY JEFFERY",
    "GEORGE GEORGIE GEORGIA GEORGINA",
    "GERALD GERRY GERARD JERRY",
    "GRACE GRACIE",
    "GREGORY GREG GREGG GRZEGORZ",
    "GWENDOLYN GWEN",
    "HANNAH HANNA HANA",
    "HARRY HENRY HARRISON HARRIET HATTIE HARRI",
    "HELEN HELENA ELENA",
    "HOLLY HOLLIE",
    "HUGH HUW",
    "IAN IAIN",
    "IMOGEN IMMY",
    "ISABEL ISABELLE ISABELLA ISOBEL IZZY IZZIE ISSY BELLA BELLE",
    "JACOB JAKE JAKUB",
    "JACQUELINE JACKIE JACQUI",
    "JAMES JIM JIMMY JAMIE",
    "JANE JAYNE",
    "JASMINE YASMIN YASMINE JASMIN YASMEEN JAZ",
    "JAYDEN JAIDEN JADEN JAY",
    "JENNIFER JEN JENNY JENNIE",
    "JESSICA JESS JESSIE",
    "JOANNA JOANNE JO",
    "JOHN JON JOHNNY JONNY JONATHAN JONATHON",
    "JOSEPH JOE JOEY JOSEPHINE JOSIE",
    "JOSHUA JOSH",
    "JULIA JULIE JULIET",
    "KENNETH KEN KENNY",
    "KIERAN CIARAN KEIRAN KIERON",
    "KIMBERLEY KIM KIMBERLY",
    "LAURA LAUREN LAURIE",
    "LAURENCE LAWRENCE LARRY LAWRIE",
    "LEONARD LEO LEN LENNY",
    "LEWIS LOUIS LOUIE LOU LOUISE LOUISA",
    "LILY LILLY LILLIE LILIAN LILLIAN LILIANA",
    "LUCY LUCIE LUCINDA",
    "LUKE LUCAS LUKAS LUKASZ",
    "MADELEINE MADDIE MADDY MADELINE MADISON MADDISON",
    "MAISIE MAISY",
    "MALACHI MALACHY",
    "MARGARET MAGGIE MEG PEGGY MARGE",
    "MARK MARC MARCUS",
    "MARTIN MARTYN MARTY",
    "MARY MARIE MARIA MOLLY MOLLIE POLLY",
    "MARYAM MARIAM MIRIAM",
    "MATTHEW MATT MATTY MATHEW MATEUSZ",
    "MATILDA TILLY TILLIE MATHILDA",
    "MAXIMILIAN MAX MAXWELL MAKSIM",
    "MEGAN MEGHAN",
    "MICHAEL MIKE MICK MICKEY MIKEY MICHAL MICHEAL",
    "MICHELLE SHELLEY",
    "NATHANIEL NATHAN NAT NATE NATHANAEL",
    "NATALIE NATALIA NATASHA TASHA",
    "NICHOLAS NICK NICKY NICOLAS NICOLE NICOLA NIKKI NICO",
    "NIAMH NEVE",
    "OLIVER OLLIE OLLY OLIVIA LIV OLIWIA",
    "OSCAR OSKAR",
    "PATRICK PAT PADDY PATRICIA TRICIA TRISH PATRYK",
    "PENELOPE PENNY",
    "PETER PETE PIOTR",
    "PHILIP PHIL PHILLIP PIPPA PHILIPPA FILIP",
    "PHOEBE PHEOBE PHEBE",
    "RACHEL RACHAEL",
    "REBECCA BECKY BECCA REBEKAH",
    "REGINALD REG REGGIE",
    "RICHARD RICH RICHIE RICK RICKY DICK",
    "ROBERT ROB BOB BOBBY ROBBIE",
    "ROBIN ROBYN",
    "RONALD RON RONNIE RONNY VERONICA",
    "SAMUEL SAM SAMMY SAMANTHA SAMMIE",
    "SARAH SARA SALLY SADIE",
    "SEAN SHAUN SHAWN",
    "SEBASTIAN SEB",
    "SHANNON SHANNEN",
    "SIOBHAN SHIVAUN",
    "SOPHIE SOPHIA SOFIA ZOFIA SOFIE",
    "STANLEY STAN",
    "STEPHEN STEVEN STEVE STEPHANIE STEPH STEFAN STEVIE SZCZEPAN",
    "SUSAN SUE SUSIE SUZANNE SUSANNAH SUZIE SUSANNA",
    "TERENCE TERRY TERRENCE TERESA THERESA TESS TESSA",
    "THEODORE THEO",
    "THOMAS TOM TOMMY TOMASZ",
    "TIMOTHY TIM TIMMY",
    "TOBIAS TOBY",
    "TRACEY TRACY",
    "VICTORIA VICKY VICKI TORI VIKTORIA WIKTORIA",
    "VINCENT VINCE VINNIE VINNY",
    "WILLIAM WILL BILL BILLY WILLIE BILLIE WILLIAMS",
    "ZACHARY ZAC ZAK ZACK ZACH ZACHARIAH",
    "ZAINAB ZEINAB ZAYNAB",
    "ZOE ZOEY",
    "AISHA AYESHA AISHAH AYSHA AICHA",
    "FATIMA FATEMA FATIMAH FATMA FATIMAT FATOUMATA",
    "KHADIJA KHADEEJA KHADIJAH HADIJA",
    "HAMZA HAMZAH",
    "BILAL BELAL",
    "TARIQ TAREK TARIK TAREQ",
    "ZAYN ZAIN ZANE ZEIN",
    "AALIYAH ALIYAH ALIYA AALIYA",
    "AMINA AMINAH AAMINA AMEENA",
    "NOOR NUR NOUR",
    "SUMAYYA SUMAYA SUMAIYA SOMAYA",
    "HAFSA HAFSAH HAFZA",
    "MUSA MOUSA MUSSA MOOSA",
    "ISA ESA ISSA EESA",
    "IMRAN EMRAN",
    "FAISAL FAYSAL FEISAL",
    "JUNAID JUNAYD",
    "NUSRAT NUSRATH",
    "RUKHSANA RUKSANA ROKSANA",
    "LAYLA LEILA LAILA LEYLA LAYLAH",
    "ABDI CABDI",
    "CHUKWUEMEKA EMEKA",
    "BABATUNDE TUNDE",
    "OLUWASEUN SEUN",
    "JASPREET JASPRIT",
    "GURPREET GURPRIT",
    "HARPREET HARPRIT",
    "SHREYA SHRIYA",
    "SAANVI SANVI",
    "AARAV ARAV ARAAV",
];

/// Given names. `Debug` shows nothing of them.
pub struct Given {
    tokens: Vec<Word>,
}

impl core::fmt::Debug for Given {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Given([redacted])")
    }
}

impl Given {
    /// Reads given names as written; empty for somebody with a single name.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Malformed`]: too long, or with letters that do not fold to A to Z.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        Ok(Self { tokens: attach(&words(text)?, &PARTICLES) })
    }

    /// Whether there is no letter in them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The form of the first given name; empty when there is none.
    pub(crate) fn first(&self) -> Word {
        self.tokens.first().map_or_else(new_word, |token| form(token)) // R214
    }

    /// What somebody with several given names may be called instead: after a Muhammad the second name, else all of
    /// them in one word (Xin Yi, Xinyi).
    pub(crate) fn other(&self) -> Option<Word> {
        let (first, second) = (self.tokens.first()?, self.tokens.get(1)?);
        let before = head_of(&TRANSLITERATED, first) == Some(BEFORE_THE_CALL_NAME);
        Some(if before { form(second) } else { self.joined() }) // R214
    }

    /// All of them in one word.
    pub(crate) fn joined(&self) -> Word {
        joined(self.tokens.iter().map(|token| token.as_str()))
    }
}

/// The form that stands for a given name and its short forms.
fn form(token: &str) -> Word {
    joined([head_of(&FORMS, token).or_else(|| head_of(&TRANSLITERATED, token)).unwrap_or(token)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn first(text: &str) -> String {
        Given::read(text).unwrap_or_else(|e| panic!("{e}")).first().as_str().into()
    }

    #[test]
    fn short_forms_stand_for_one_name() {
        for same in [
            &["William", "Bill", "BILLY", "Will", "William James"][..],
            &["Mohammed", "Muhammad", "MOHAMED", "Md", "Mohammed-Ali"],
            &["Katherine", "Kate", "Kathryn", "Cathy"],
            &["Ellie-Mae", "Ellie", "Eleanor Mae"],
            &["Zoë", "Zoe", "Zoey"],
            &["Abdul Rahman", "Abdulrahman", "abdul-rahman"],
        ] {
            for one in same {
                assert_eq!(first(one), first(same[0]), "{one}");
            }
        }
        for (one, other) in [("William", "Walter"), ("Jack", "Jacob"), ("Mia", "Maya")] {
            assert_ne!(first(one), first(other));
        }
        assert_eq!(first(""), "");
    }

    #[test]
    fn other_names() {
        let other = |text: &str| {
            let other = Given::read(text).unwrap_or_else(|e| panic!("{e}")).other();
            other.map(|word| String::from(word.as_str()))
        };
        assert_eq!(other("Xin Yi").as_deref(), Some("XINYI"));
        assert_eq!(other("Muhammad Bilal").as_deref(), Some("BILAL"));
        assert_eq!(other("Bilal"), None);
    }

    #[test]
    fn no_form_stands_twice() {
        let mut all: Vec<&str> = FORMS.iter().chain(&TRANSLITERATED).flat_map(|line| line.split(' ')).collect();
        let before = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), before);
    }
}
