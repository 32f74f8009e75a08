# The plan's own script: step 1.1, the gap analysis.
# Taken from experiment_plan.md as it is there, without the shell's quoting, and kept as it is, with its
# known faults (see tests/interop/test_plan_scripts.py): what it is right about our answers must agree with.
import json
from pathlib import Path

def analyze_gaps(results_file, min_coherence=68):
    if not results_file.exists():
        return None

    baseline = 0
    method_data = {}

    with open(results_file) as f:
        for line in f:
            entry = json.loads(line)
            if entry.get('type') == 'baseline':
                baseline = entry['result'].get('trait_mean', 0)
            elif 'config' in entry and 'result' in entry:
                cfg = entry['config']['vectors'][0]
                res = entry['result']
                method = cfg['method']
                coh = res['coherence_mean']
                delta = res['trait_mean'] - baseline

                # Track best result with coherence >= threshold
                if coh >= min_coherence:
                    if method not in method_data or delta > method_data[method]['best_delta']:
                        method_data[method] = {
                            'best_coh': coh,
                            'best_delta': delta,
                            'has_valid': True,
                            'coef': cfg['weight']
                        }
                elif method not in method_data:
                    method_data[method] = {'best_coh': coh, 'best_delta': delta, 'has_valid': False, 'coef': cfg['weight']}

    return method_data

# Check key files
configs = [
    ('gemma-3-4b [:5]', 'instruct', 'response__5'),
    ('gemma-3-4b [:10]', 'instruct', 'response__10'),
    ('gemma-3-4b [:20]', 'instruct', 'response__20'),
    ('gemma-2-2b [:5]', 'gemma2_instruct', 'response__5'),
    ('gemma-2-2b [:10]', 'gemma2_instruct', 'response__10'),
    ('gemma-2-2b [:20]', 'gemma2_instruct', 'response__20'),
]

key_methods = ['probe', 'mean_diff', 'probe_top1', 'mean_diff_top1', 'probe_cleaned', 'mean_diff_cleaned']

print('Gap Analysis (target: coherence ≥68%)')
print('=' * 80)

for name, variant, pos in configs:
    results_file = Path(f'experiments/massive-activations/steering/chirp/refusal/{variant}/{pos}/steering/results.jsonl')
    data = analyze_gaps(results_file)
    if not data:
        print(f'{name}: NO DATA')
        continue

    gaps = []
    for method in key_methods:
        if method in data and not data[method].get('has_valid', False):
            gaps.append(f"{method}(best:{data[method]['best_coh']:.0f}%)")

    if gaps:
        print(f"{name}: NEEDS FINER COEF - {', '.join(gaps)}")
    else:
        print(f'{name}: OK')
