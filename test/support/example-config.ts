import { HoldfastError } from '../../src/base/errors.ts'
import { parseConfig } from '../../src/fleet/config.ts'

/** The configuration of PayLedger, as the contract shows it, shortened to a few tables. */
export const exampleConfig = `fleet: payledger
dataDir: .holdfast
listen: 127.0.0.1:7400
app: ./examples/payledger/app.js
regions:
  eu-west:    { jurisdiction: EU, archive: ./archive/eu-west }
  eu-central: { jurisdiction: EU }
  us-east:    { jurisdiction: US, archive: ./archive/us-east }
links: { eu-west~eu-central: 12, eu-west~us-east: 80, eu-central~us-east: 90 }
shards:
  eu-west/payroll:  { durability: quorum, followers: [eu-west, eu-central], survive: region }
  us-east/treasury: { durability: quorum, followers: [us-east, us-east] }
domains:
  payroll:  { class: regulated, placement: tenant-home, schema: ./schema/payroll, tables: [employees, payroll_runs] }
  treasury: { class: regulated, placement: us-east/treasury, schema: ./schema/treasury, tables: [treasury_holds],
              policy: { authority: [us-east], replicas: [US], otherwise: reject } }
  tax:      { class: reference, source: us-east/treasury, schema: ./schema/tax, tables: [tax_rules] }
  finance:  { class: derived, at: us-east/treasury, from: { payroll: { payroll_runs: [id, status] } } }
tenants:
  globex-eu:  { home: eu-west/payroll, policy: { authority: [eu-west, eu-central], replicas: [EU], otherwise: read-only } }
  initech-us: { home: us-east/treasury, policy: { authority: [us-east], replicas: [US], otherwise: reject } }
invariants: ./invariants
drills: { every: 24h, target: 5m-ago }
outbox: { webhook: 'http://127.0.0.1:9999/hook' }
`

export const parse = (text: string) => parseConfig(text, { baseDir: '/srv/app', file: 'holdfast.yaml' })

export function refusal(text: string): HoldfastError {
  try {
    parse(text)
  } catch (error) {
    if (error instanceof HoldfastError) return error
    throw error
  }
  throw new Error('the configuration was accepted')
}

/** The configuration above with one piece of its text replaced; the piece must be there. */
export function changed(piece: string, by: string): string {
  if (!exampleConfig.includes(piece)) throw new Error(`${piece} is not in the text`)
  return exampleConfig.replace(piece, () => by)
}
