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
