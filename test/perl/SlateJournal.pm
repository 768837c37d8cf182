#-------------------------------------------------------------------------
# SlateJournal - what TAP tests do with the journal of a SlateNode.
#
#   use SlateJournal;
#   SlateJournal::rotate($node);               # until no row is in it any more
#   SlateJournal::wait_until_told($node);      # until nothing is in doubt
#   SlateJournal::rows($node);                 # all rows, in doubt or not
#
# After a crash every row that is there is in doubt: a test that counts what is
# dropped then rotates the journal before.
#-------------------------------------------------------------------------
package SlateJournal;

use strict;
use warnings;
use SlateNode;

my $rows = q{SELECT count(*) FROM (SELECT FROM slate_cache.journal_a
    UNION ALL SELECT FROM slate_cache.journal_b
    UNION ALL SELECT FROM slate_cache.journal_prepared) j};

# A generation that has served for long, or holds 256 kB, makes way for the
# other; the keys here are nobody's.
sub rotate
{
    my ($node) = @_;
    $node->safe_psql('postgres', q{SELECT slate_cache_del(VARIADIC array_agg('rotate:' || repeat('x', 200) || i))
        FROM generate_series(1, 1500) i});
    SlateNode::wait_for($node, $rows, '0');
    return;
}

sub wait_until_told
{
    my ($node) = @_;
    SlateNode::wait_for($node, 'SELECT count(*) FROM slate_cache.journal', '0');
    return;
}

sub rows { return $_[0]->safe_psql('postgres', $rows) }

1;
