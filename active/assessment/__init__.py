"""How good is the network on the user's own data? Audits, and what can be concluded from their labels.

    audits = draw_audits(pool.unlabelled_ids, 100, audit_generator(seed, round))
    answers = [label_of(i) for i in audits.tolist()]                    # before they are trained on
    print(assess(pool, probs, audits, answers))                         # 91.0 % (84.4 to 95.4; 100 audits)

    audits           which samples are audits, in the modes train and hold
    hypergeometric   exact bounds for one look
    betting          bounds that hold at all looks at once, tightened by the network's confidences
    classes          accuracy by class, and balanced accuracy
    pool_accuracy    all of it together: `assess`

Every bound is valid in finite samples, whatever the network's confidences are worth.
"""

from active.assessment.audits import HeldAudits, audit_generator, draw_audits
from active.assessment.pool_accuracy import Assessment, Interval, alpha_of_round, assess

__all__ = ["Assessment", "HeldAudits", "Interval", "alpha_of_round", "assess", "audit_generator", "draw_audits"]
