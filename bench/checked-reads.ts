import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Figure } from './figure.ts'

/**
 * Sessions that hop between the gateways of all regions, join tokens and hand them on, under faults. Counted are reads of
 * which the checker expects something that a late node would not have shown.
 */

const wanted = 200_000
const withinMs = { whole: 900_000, quick: 60_000 }

/** As `test/torture/checked-reads.ts` tells it. */
interface CheckedReads {
  readonly seed: number
  readonly checked: number
  readonly violations: readonly { readonly kind: string; readonly explanation: string }[]
  readonly faults: Readonly<Record<string, number>>
  readonly tookMs: number
}

export async function checkedReadsFigure(quick: boolean, progress: (text: string) => void): Promise<Figure> {
  const forMs = quick ? withinMs.quick : withinMs.whole
  progress(`sessions under faults, for ${forMs / 1_000} s at most`)
  const program = fileURLToPath(new URL('../scripts/checked-reads.js', import.meta.url))
  const child = spawn(process.execPath, [program, String(wanted), String(forMs)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [output] = await Promise.all([text(child.stdout), once(child, 'exit')])
  if (child.exitCode !== 0) throw new Error('the reads under faults could not be played')
  const { seed, checked, violations, faults, tookMs } = JSON.parse(output) as CheckedReads
  for (const { kind, explanation } of violations.slice(0, 10)) progress(`${kind}: ${explanation}`)
  const happened = Object.entries(faults).map(([name, times]) => `${name} ${times}`)
  return {
    name: 'session guarantee violations in >= 200,000 checked reads under faults',
    value: violations.length,
    unit: `in ${checked} reads in ${Math.round(tookMs / 1_000)} s, seed ${seed} (${happened.join(', ')})`,
    bare: null,
    ratio: null,
    target: `exactly 0, in at least ${wanted} reads under each of these faults`,
    ok: violations.length === 0 && checked >= wanted && Object.values(faults).every((times) => times > 0),
  }
}
